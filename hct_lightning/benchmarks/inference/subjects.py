"""What the inference benchmark serves: an artifact, a checkpoint, or a network of timm."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor

from hct_lightning.data.dataset import IMAGENET_MEAN, IMAGENET_STD
from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.deploy.artifact import load_artifact, read_description
from hct_lightning.machine import runtime
from hct_lightning.training.checkpoints import load_checkpoint, load_network
from hct_lightning.training.fast_stem import with_fast_stem
from hct_lightning.training.spec import NetworkSpec
from hct_lightning.training.step import AUTOCAST

Probabilities = Callable[[Tensor], Tensor]


class Model(NamedTuple):
    """A model by its name on the command line.

    kind: `artifact`, `checkpoint` or `timm`.
    where: the artifact's folder, the checkpoint file, or timm's name.
    about: what `artifact.json` says; empty for the others.
    spec: of a checkpoint, and of timm's networks, whose weights are random; None for an artifact.
    decoding: how its images are read.
    classes: names in the order of its answers.
    """

    kind: str
    where: str
    about: dict[str, Any]
    spec: NetworkSpec | None
    decoding: Decoding
    classes: tuple[str, ...]

    def takes(self, size: tuple[int, int]) -> bool:
        """Whether it takes images of (height, width)."""
        if self.kind != "artifact":
            return True
        given = self.about["input"]
        low, high = given["min"], given["max"] or size
        return all(a <= side <= b and side % given["multiple"] == 0 for a, side, b in zip(low, size, high, strict=True))


def find(where: str | Path) -> Model:
    """The model behind an artifact's folder, a checkpoint file, or a name of timm.

    Raises:
        ValueError: when it is none of them.
    """
    path = Path(where)
    if (path / "artifact.json").is_file():
        about = read_description(path)
        return Model("artifact", str(path), about, None, Decoding.from_json(about["decoding"]), tuple(about["classes"]))
    if path.suffix == ".ckpt":
        _, spec = load_checkpoint(path)
        return Model("checkpoint", str(path), {}, spec, spec.decoding, spec.classes)
    if not timm.is_model(str(where)):
        raise ValueError(
            f"{where} is no folder with an artifact.json, no checkpoint file (.ckpt) and no network of timm"
        )
    spec = NetworkSpec(
        model={"_target_": "timm.create_model", "model_name": str(where)},
        classes=("a", "b", "c", "d"),
        decoding=Decoding(channels=3, size=None, geometry="cover", max_pixels=2**30),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )
    return Model("timm", str(where), {}, spec, spec.decoding, spec.classes)


def load(model: Model, device: str = "cpu", precision: str = "auto") -> tuple[Probabilities, dict[str, Any]]:
    """n c h w uint8 -> n classes probabilities, and facts: `precision`, `size_bytes`.

    Args:
        model: what `find` found. Artifacts are served as they are; the others run eagerly, as
            `task=predict` runs them.
        device: `cpu` or `cuda`.
        precision: of what runs eagerly, Lightning's name or `auto`.
    """
    if model.kind == "artifact":
        facts = {key: model.about[key] for key in ("precision", "size_bytes")}
        return load_artifact(model.where), facts
    if model.kind == "checkpoint":
        network, _ = load_network(Path(model.where))
    else:
        assert model.spec, "only an artifact has none"
        network = model.spec.build().eval()
    with_fast_stem(network.to(device), device)
    precision = runtime.resolve_precision(precision, device)
    dtype = AUTOCAST.get(precision)

    def probabilities(images: Tensor) -> Tensor:
        with torch.inference_mode(), torch.autocast(device, dtype, enabled=dtype is not None):
            return network(images.to(device, non_blocking=True)).float().softmax(dim=1).cpu()

    return probabilities, {
        "precision": {"bf16-mixed": "bf16", "16-mixed": "fp16"}.get(precision, "fp32"),
        "size_bytes": sum(tensor.nbytes for tensor in network.state_dict().values()),
    }
