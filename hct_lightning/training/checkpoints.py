"""Checkpoints: read as data, never run; and the trained networks in them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from hct_lightning.cli.allowed import check_targets
from hct_lightning.models import HCT, FromPixels, load_original_state_dict
from hct_lightning.training.spec import NetworkSpec


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


def load_weights(network: FromPixels, path: Path, allow: Iterable[str] = ()) -> None:
    """Starts `network` from the weights of a file: a checkpoint of ours, or one of the original HCT.

    Raises:
        ValueError: when the weights don't fit, naming the keys.
    """
    weights = torch.load(path, map_location="cpu", weights_only=True)
    if "hyper_parameters" in weights:
        trained, _ = load_network(path, allow)
        try:
            network.load_state_dict(trained.state_dict())
        except RuntimeError as error:
            raise ValueError(f"{path} does not fit this network: {error}") from error
    elif isinstance(network.network, HCT):
        load_original_state_dict(network.network, weights.get("state_dict", weights))
    else:
        raise ValueError(f"{path} holds no weights of {type(network.network).__name__}")
