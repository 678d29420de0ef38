"""A run of an untrained HCT with its artifacts: weights do not matter for time."""

import json
import logging
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from hct_lightning.data.dataset import IMAGENET_MEAN, IMAGENET_STD
from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.data.reading.geometry import Size
from hct_lightning.data.sources import drawing
from hct_lightning.runs.files import write_whole
from hct_lightning.training.spec import NetworkSpec

log = logging.getLogger(__name__)


def make_run(folder: Path, size: Size, artifacts: Sequence[str]) -> Path:
    """Writes checkpoint and artifacts to `folder`.

    Other processes make the artifacts, so that what that takes does not stay in this one.

    Args:
        folder: of the run.
        size: (height, width) that the network is for.
        artifacts: their names.
    """
    decoding = Decoding(channels=3, size=size, geometry="cover", max_pixels=2**30)
    spec = NetworkSpec(
        model={"_target_": "hct_lightning.models.HCT"},
        classes=drawing.CLASSES,
        decoding=decoding,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )
    torch.manual_seed(0)
    network = spec.build()
    network(torch.randint(0, 256, (2, 3, 256, 256), dtype=torch.uint8))  # running statistics
    for name in (".hydra", "checkpoints", "artifacts"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    weights = {f"network.{key}": value for key, value in network.state_dict().items()}
    checkpoint = {"hyper_parameters": {"spec": spec.as_json()}, "state_dict": weights}
    torch.save(checkpoint, folder / "checkpoints" / "best.ckpt")
    height, width = size
    overrides = [
        f"data.resolution=[{height},{width}]",
        f"data.scene_size={max(size)}",
        "data.train=8",
        "data.valid=4",
    ]
    write_whole(folder / ".hydra" / "overrides.yaml", json.dumps(overrides))
    for name in artifacts:
        log.info("making %s", name)
        command = [
            sys.executable,
            "-m",
            "hct_lightning",
            "task=export",
            f"run={folder}",
            f"export=[{name}]",
            "export.calibration=4",
            "export.evaluation=0",
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder
