"""Predicting with an artifact in the place of a checkpoint: on the CPU, an image read while another is computed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.data import BatchSampler

from hct_lightning.data.feeding.loader import Images, Loader
from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.deploy.artifact import Artifact, read_descriptions
from hct_lightning.runs.console import track
from hct_lightning.runs.predictions import Predictions


def find_artifact(run: Path, name: str, option: str = "predict.artifact") -> Path:
    """The folder of an artifact of the run in `run`, or of any other, that an option names.

    Raises:
        ValueError: when there is none, with those that the run has.
    """
    for folder in (run / "artifacts" / name, Path(name).expanduser()):
        if (folder / "artifact.json").is_file():
            return folder
    there = ", ".join(read_descriptions(run / "artifacts")) or "none"
    raise ValueError(
        f"{option}={name}: no artifact of this run (it has {there}), and no folder of one; make it with task=export"
    )


def decoding_of(description: Mapping[str, Any], given: Mapping[str, Any]) -> Decoding:
    """How the artifact's images are read.

    Args:
        description: what `artifact.json` says.
        given: options of the group `data` that the command line names.

    Raises:
        ValueError: when they say otherwise; the size alone may differ, where the artifact leaves it open.
    """
    made = Decoding.from_json(description["decoding"])
    asked = made.with_options(given)
    for name, value in asked.as_json().items():
        open_size = name == "size" and value and description["input"]["max"] is None
        if value != (mine := made.as_json()[name]) and not open_size:
            option = "predict.resolution" if name == "size" else f"data.{name}"
            raise ValueError(
                f"{option}={json.dumps(value)}: this artifact takes images as its network was trained on them, with "
                f"{json.dumps(mine)}; leave it out, or predict with the checkpoint"
            )
    return asked


def predict_all(
    artifact: Artifact,
    images: Images,
    file: Predictions,
    *,
    batch_size: int,
    num_workers: int,
    prefetch_factor: int,
) -> None:
    """Writes a row for each image to `file`, which is open, its next row that of the first.

    Args:
        artifact: answers.
        images: to predict; those that are skipped get a row with the reason.
        file: grows.
        batch_size: images that are given to the artifact at once.
        num_workers: threads that read ahead.
        prefetch_factor: batches that are kept ready, at least.
    """
    batches = BatchSampler(range(len(images)), batch_size, drop_last=False)
    loader = Loader(images, batches, num_workers=num_workers, prefetch_factor=prefetch_factor)
    for batch in track("predicting", loader, len(loader)):
        rows = []
        index: list[int] = batch.index.tolist()
        for i, probabilities in zip(index, artifact(batch.images).tolist(), strict=True):
            path = images.paths[i if i >= 0 else -1 - i]
            reason = (images.skipped or {}).get(path, "")
            rows.append(file.row(path, None if i < 0 else probabilities, reason))
        file.append(rows)
