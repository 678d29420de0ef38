"""timm: weights and a configuration that `timm.create_model("local-dir:<folder>")` loads, and hubs of models take.

timm's networks take normalised floats. Served as an artifact the normalisation is put in front.
"""

import json
import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import save_for_hf
from torch import Tensor, nn

from hct_lightning.deploy.artifact import Exported
from hct_lightning.deploy.trust import first_special, refuse_larger
from hct_lightning.models import HCT, FromPixels

FILE = "model.safetensors"
CONFIG = "config.json"
# What timm's own weights of this architecture say of themselves, which is not true of these.
FOREIGN = ("tag", "license", "description", "origin_url", "paper_name", "paper_ids", "notes")
FOREIGN += ("test_input_size", "test_crop_pct", "label_offset", "label_names", "label_descriptions")


def export(network: FromPixels, example: Tensor, folder: Path, *, dynamic: bool, spec: Mapping[str, Any]) -> Exported:
    """Writes `model.safetensors` in fp32 and `config.json`.

    Args:
        network: takes uint8 images.
        example: n c h w uint8.
        folder: where the files are written.
        dynamic: changes only what the artifact promises; the file is the same.
        spec: what the network is, as `NetworkSpec.as_json` says it.

    Raises:
        ValueError: when it is a network that timm does not know.
    """
    channels, classes = spec["decoding"]["channels"], spec["classes"]
    args = {name: value for name, value in spec["model"].items() if name not in ("_target_", "model_name")}
    metadata = dict.fromkeys(FOREIGN) | {
        "input_size": (channels, *example.shape[-2:]),
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "crop_mode": "center",
        "mean": tuple(spec["mean"]),
        "std": tuple(spec["std"]),
        "num_classes": len(classes),
    }
    rebuilt = timm.create_model(
        _architecture(network.network, spec["model"]["_target_"]),
        pretrained_cfg_overlay=metadata,
        in_chans=channels,
        num_classes=len(classes),
        **args,
    )
    rebuilt.load_state_dict(network.network.state_dict())
    config = {"label_names": list(classes)}
    save_for_hf(rebuilt.float(), str(folder), model_config=config, model_args=args, safe_serialization=True)
    return Exported("timm", "fp32", FILE, batch=None)


def _architecture(network: nn.Module, target: str) -> str:
    """The name by which timm makes a network."""
    if isinstance(network, HCT):
        return "hct"
    if target != "timm.create_model":
        raise ValueError(
            f"export=[timm]: timm does not know {target}; leave timm out, or train HCT or a network of timm"
        )
    metadata: Any = network.pretrained_cfg
    return metadata["architecture"]


def load(file: Path, description: Mapping[str, Any], threads: int | None, streams: int) -> Callable[[Tensor], Tensor]:
    """n c h w uint8 -> n classes logits.

    Raises:
        ValueError: when the options of the network are none that training leaves.
    """
    config = json.loads((file.parent / CONFIG).read_text(encoding="utf-8"))
    if name := first_special(config.get("model_args", {})):
        raise ValueError(
            f"{file.parent / CONFIG}: its network has the option {name!r:.100}; a network's are plain values and no "
            "large numbers"
        )
    logging.getLogger("timm.models").setLevel(logging.WARNING)  # a line about the file that it found
    build = partial(
        timm.create_model,
        f"local-dir:{file.parent}",
        num_classes=len(description["classes"]),
        in_chans=description["input"]["channels"],
    )
    refuse_larger(build, file)
    network = build(pretrained=True)
    metadata: Any = network.pretrained_cfg
    return FromPixels(network, metadata["mean"], metadata["std"]).to(memory_format=torch.channels_last).eval()
