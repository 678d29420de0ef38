"""Checkpoints: read as data, never run; and the trained networks in them."""

import logging
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hct_lightning.cli.allowed import check_network
from hct_lightning.deploy.trust import refuse_inflated, refuse_larger
from hct_lightning.models import HCT, FromPixels, load_original_state_dict
from hct_lightning.runs import out_of_memory
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
    checkpoint = _read(path)
    return checkpoint, _described(checkpoint, path, allow)


def _described(checkpoint: Mapping[str, Any], path: Path, allow: Iterable[str]) -> NetworkSpec:
    """The description in a checkpoint of ours. Raises ValueError when it has none, or is broken."""
    try:
        spec = NetworkSpec.from_json(checkpoint["hyper_parameters"]["spec"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is not a checkpoint written by hct_lightning, or it is damaged: {error!r:.300}"
        ) from error
    return replace(spec, model=check_network(spec.model, allow, str(path)))


def _read(path: Path) -> dict[str, Any]:
    """What a file of torch.save holds, tensors and plain containers only.

    Raises:
        ValueError: when it holds anything else, or is no such file.
    """
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is not a checkpoint: it is no file")
    try:
        if zipfile.is_zipfile(path):
            refuse_inflated(path)
            with zipfile.ZipFile(path) as archive:  # torch does not look at the check sums
                if damaged := archive.testzip():
                    raise zipfile.BadZipFile(damaged)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # of the unpickler, which has many; torch would have the file unpickled as it is
        if out_of_memory.shows_in(error):
            raise
        log.debug("%s: %s", path, error)
        raise ValueError(
            f"{path} is not a checkpoint, or it is damaged: it holds no tensors and plain containers of torch.save "
            f"({type(error).__name__})"
        ) from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} is not a checkpoint: it holds a {type(found).__name__}")
    return found


def load_network(path: Path, allow: Iterable[str] = ()) -> tuple[FromPixels, NetworkSpec]:
    """The trained network of a checkpoint, in eval mode, and its description.

    Raises:
        ValueError: when it isn't a checkpoint of this project, is broken, or its network has not learned to classify.
    """
    checkpoint, spec = load_checkpoint(path, allow)
    if not spec.classes:
        raise ValueError(
            f"{path} is of task=pretrain, and has no classes yet; train it first: ckpt={path}, without task= and run="
        )
    return _network_of(checkpoint, spec, path).eval(), spec


def _network_of(checkpoint: Mapping[str, Any], spec: NetworkSpec, path: Path) -> FromPixels:
    """Raises ValueError when the weights are not those of the network that is described."""
    prefix = "network."
    try:
        refuse_larger(spec.build, path)
        network = spec.build()
        state = checkpoint["state_dict"].items()
        network.load_state_dict({key.removeprefix(prefix): value for key, value in state if key.startswith(prefix)})
    except Exception as error:  # a network says in its own way which options it does not take
        if out_of_memory.shows_in(error):
            raise
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path} is damaged, its network can't be made: {type(error).__name__}: {reason:.500}"
        ) from error
    return network


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
    saved = _read(start)  # once: it may be large
    trained = _described(saved, start, allow) if "hyper_parameters" in saved else None
    if trained and goes_on:
        trained.check_classes(spec.classes)
        trained.check_normalisation(given)
    chosen = not goes_on and given.keys() & {"mean", "std", "statistics"}
    if trained and not chosen and trained.decoding.channels == spec.decoding.channels:
        if (spec.mean, spec.std) != (trained.mean, trained.std):
            log.info("mean %s and deviation %s are those of %s", trained.mean, trained.std, start)
        spec = replace(spec, mean=trained.mean, std=trained.std)
    network = spec.build()
    load_weights(network, saved, trained, start, classes=len(spec.classes))
    return network, spec


def check_resumable(path: Path, allow: Iterable[str] = ()) -> dict[str, Any]:
    """Reads a checkpoint before Lightning does: its strategies have readers of their own, which may unpickle.

    Raises:
        ValueError: when it isn't a checkpoint that training can go on from.
    """
    checkpoint, _ = load_checkpoint(path, allow)
    wanted = {"state_dict": dict, "loops": dict, "callbacks": dict, "optimizer_states": list, "lr_schedulers": list}
    wanted |= {"epoch": int, "global_step": int}
    for name, kind in wanted.items():
        if not isinstance(checkpoint.get(name), kind):
            raise ValueError(f"{path} is damaged: it has no {name} to go on with")
    for name in ("optimizer_states", "lr_schedulers"):  # fewer would begin anew, without a word
        if [type(state) for state in checkpoint[name]] != [dict]:
            raise ValueError(f"{path} is damaged: its {name} are not those of one")
    return checkpoint


def load_weights(
    network: FromPixels, saved: Mapping[str, Any], spec: NetworkSpec | None, path: Path, *, classes: int
) -> None:
    """Starts `network` from the weights that a file holds: a checkpoint of ours, or one of the original HCT.

    Its normalisation stays its own, and its classifier where the weights are for another number of classes.

    Args:
        network: that is to begin.
        saved: what the file holds.
        spec: its description, where it is of ours.
        path: the file, for messages.
        classes: of `network`.

    Raises:
        ValueError: when the weights don't fit, naming the first keys that don't.
    """
    if spec:
        trained = _network_of(saved, spec, path).network
        own, state = network.network.state_dict(), trained.state_dict()
        anew = classes != len(spec.classes)
        if anew:
            # What depends on the number of classes differs from the same network's with another; some have two classifiers.
            others = replace(spec, classes=tuple(map(str, range(classes)))).build().network.state_dict()
            mine, theirs = (_beside(one, other) for one, other in ((others, state), (state, others)))
            state = {key: value for key, value in state.items() if key not in theirs}
            state |= {key: own[key] for key in mine & own.keys()}
        try:
            network.network.load_state_dict(state)
        except RuntimeError as error:
            first = str(error).splitlines()[1].strip().split(", ")[0]
            raise ValueError(
                f"{path} does not fit this network: {first} ...; give the options of `model`, and data with as many "
                "channels, that it was trained with"
            ) from error
        if anew:
            log.info("the classifier begins anew: %s has %d classes", path, len(spec.classes))
    elif isinstance(network.network, HCT):
        load_original_state_dict(network.network, saved.get("state_dict", saved))
    else:
        raise ValueError(f"{path} holds no weights of {type(network.network).__name__}")


def _beside(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> set[str]:
    """The names of weights that `other` lacks, or has in another shape."""
    return {key for key, value in one.items() if key not in other or other[key].shape != value.shape}
