"""Checkpoints: read as data, never run; and the trained networks in them."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hct_lightning.cli.allowed import check_targets
from hct_lightning.models import HCT, FromPixels, load_original_state_dict
from hct_lightning.training.spec import NetworkSpec

log = logging.getLogger(__name__)


def load_checkpoint(path: Path, allow: Iterable[str] = ()) -> tuple[dict[str, Any], NetworkSpec]:
    """Reads a checkpoint of ours, tensors and plain containers only, and the description in it.

    Args:
        path: the file.
        allow: packages beside the built-in ones that its model may come from.

    Raises:
        ValueError: when it isn't a checkpoint of this project, or is broken.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        spec = NetworkSpec.from_json(checkpoint["hyper_parameters"]["spec"])
    except (OSError, FileNotFoundError):
        raise
    except Exception as error:
        raise ValueError(f"{path} is not a checkpoint written by hct_lightning, or it is damaged: {error}") from error
    check_targets(dict(spec.model), allow, f"{path}: model")
    return checkpoint, spec


def load_network(path: Path, allow: Iterable[str] = ()) -> tuple[FromPixels, NetworkSpec]:
    """The trained network of a checkpoint, in eval mode, and its description."""
    checkpoint, spec = load_checkpoint(path, allow)
    network = spec.build()
    prefix = "network."
    weights = {
        key.removeprefix(prefix): value for key, value in checkpoint["state_dict"].items() if key.startswith(prefix)
    }
    network.load_state_dict(weights)
    return network.eval(), spec


def begin_network(
    spec: NetworkSpec, start: Path | None, *, goes_on: bool, given: Mapping[str, Any], allow: Iterable[str] = ()
) -> tuple[FromPixels, NetworkSpec]:
    """The network before the first step, and its description.

    Weights come with their normalisation: mean and deviation are those of a checkpoint of ours, unless others are
    asked for.

    Args:
        spec: what data and options say.
        start: the weights to begin with; None: fresh ones, or those that `model.pretrained` fetches.
        goes_on: whether they are of this same run, which keeps its classes and normalisation.
        given: options of the group `data` that the command line names.
        allow: see `load_checkpoint`.

    Raises:
        ValueError: when the weights don't fit.
    """
    if start is None:
        return spec.build(pretrained=True), spec
    trained = load_checkpoint(start, allow)[1] if _is_ours(start) else None
    if trained and goes_on:
        trained.check_classes(spec.classes)
        trained.check_normalisation(given)
    chosen = not goes_on and given.keys() & {"mean", "std", "statistics"}
    if trained and not chosen and trained.decoding.channels == spec.decoding.channels:
        if (spec.mean, spec.std) != (trained.mean, trained.std):
            log.info("mean %s and deviation %s are those of %s", trained.mean, trained.std, start)
        spec = replace(spec, mean=trained.mean, std=trained.std)
    network = spec.build()
    load_weights(network, start, allow)
    return network, spec


def _is_ours(path: Path) -> bool:
    return "hyper_parameters" in torch.load(path, map_location="meta", weights_only=True)


def load_weights(network: FromPixels, path: Path, allow: Iterable[str] = ()) -> None:
    """Starts `network` from the weights of a file: a checkpoint of ours, or one of the original HCT.

    Its normalisation stays its own.

    Raises:
        ValueError: when the weights don't fit, naming the first keys that don't.
    """
    if _is_ours(path):
        trained, _ = load_network(path, allow)
        try:
            network.network.load_state_dict(trained.network.state_dict())
        except RuntimeError as error:
            first = str(error).splitlines()[1].strip().split(", ")[0]
            raise ValueError(
                f"{path} does not fit this network: {first} ...; give the options of `model`, and data with as many "
                "classes and channels, that it was trained with"
            ) from error
    elif isinstance(network.network, HCT):
        weights = torch.load(path, map_location="cpu", weights_only=True)
        load_original_state_dict(network.network, weights.get("state_dict", weights))
    else:
        raise ValueError(f"{path} holds no weights of {type(network.network).__name__}")
