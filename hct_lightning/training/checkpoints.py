"""From a configuration, or from a checkpoint, to a network that takes pixels.

A `spec` is a plain dict that rebuilds the network and says what to feed it; checkpoints carry it:

    model       its configuration, with `_target_`
    classes     names, sorted
    channels    1 or 3
    resolution  [height, width] that it was trained on
    geometry    `cover` or `paper`
    mean, std   per channel, of pixels in 0..1
    window      [low, high] of 16-bit and float sources, or null
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate

from hct_lightning.cli import allowed as safety
from hct_lightning.models import HCT, FromPixels, load_original_state_dict


def build_network(spec: dict[str, Any]) -> FromPixels:
    """The untrained network of a spec, channels_last."""
    network = instantiate(
        spec["model"],
        in_chans=spec["channels"],
        num_classes=len(spec["classes"]),
        _convert_="all",
    )
    network = FromPixels(network, spec["mean"], spec["std"])
    return network.to(memory_format=torch.channels_last)


def load_checkpoint(path: Path, allow: Iterable[str] = ()) -> dict[str, Any]:
    """Reads a checkpoint of ours: tensors and plain containers only.

    Args:
        path: the file.
        allow: packages beside the built-in ones that its model may come from.

    Raises:
        ValueError: when it isn't a checkpoint of this project, or is broken.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        spec = checkpoint["hyper_parameters"]["spec"]
    except (OSError, FileNotFoundError):
        raise
    except Exception as error:
        raise ValueError(f"{path} is not a checkpoint written by hct_lightning, or it is damaged: {error}") from error
    safety.check_targets(spec["model"], allow, f"{path}: model")
    return checkpoint


def load_network(path: Path, allow: Iterable[str] = ()) -> tuple[FromPixels, dict[str, Any]]:
    """The trained network of a checkpoint, in eval mode, and its spec."""
    checkpoint = load_checkpoint(path, allow)
    spec = checkpoint["hyper_parameters"]["spec"]
    network = build_network(spec)
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
