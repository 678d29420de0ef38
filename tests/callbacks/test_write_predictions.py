"""Predictions are written in the order of the images, while others are still read. Several ranks: tests/tasks."""

import csv
from pathlib import Path

import lightning
import pytest
import torch
from PIL import Image
from torch.utils.data import BatchSampler

from hct_lightning.callbacks.write_predictions import WritePredictions
from hct_lightning.data.feeding.images import Images
from hct_lightning.data.feeding.loader import Loader
from hct_lightning.data.feeding.samplers import EveryImageOnce
from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.data.reading.image import UnreadableImageError
from hct_lightning.data.reading.readers import FileReader
from hct_lightning.runs.predictions import Predictions


class Brightness(lightning.LightningModule):
    """The probability of the first class is the mean of the pixels."""

    def predict_step(self, batch, batch_idx: int) -> torch.Tensor:
        bright = batch.images.float().mean(dim=(1, 2, 3)) / 255
        return torch.stack([bright, 1 - bright], dim=1)


def grey(path: Path, value: int) -> str:
    Image.new("RGB", (8, 8), (value,) * 3).save(path)
    return str(path)


@pytest.fixture
def images(tmp_path) -> list[str]:
    """Five; the second is broken, the fourth is the first again."""
    paths = [grey(tmp_path / f"{i}.png", 51 * i) for i in range(4)]
    Path(paths[1]).write_bytes(b"no image")
    return [*paths[:3], paths[0], paths[3]]


def predict(file: Predictions, images: list[str], skipped: dict[str, str] | None) -> None:
    reader = FileReader(Decoding(channels=3, size=(8, 8), geometry="cover", max_pixels=64))
    todo = Images(images, [0] * len(images), reader, skipped=skipped)
    trainer = lightning.Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=[WritePredictions(file, todo)],
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    batches = BatchSampler(EveryImageOnce(len(images)), 2, drop_last=False)
    trainer.predict(Brightness(), Loader(todo, batches, num_workers=1), return_predictions=False)


def rows_of(file: Predictions) -> list[dict[str, str]]:
    return list(csv.DictReader(file.path.read_text().splitlines()))


@pytest.fixture
def file(tmp_path, images):
    file = Predictions(tmp_path / "out.csv", images, ("bright", "dark"), {})
    file.open()
    yield file
    file.close()


def test_rows_in_the_order_of_the_images_and_why_one_has_no_answer(file, images):
    predict(file, images, {})
    rows = rows_of(file)
    assert [row["path"] for row in rows] == images
    assert [row["p_bright"] for row in rows] == ["0.000000", "", "0.400000", "0.000000", "0.600000"]
    assert [row["class"] for row in rows] == ["dark", "", "dark", "dark", "bright"]
    assert rows[1]["error"].startswith(f"{images[1]}: not an image")
    file.finish()


def test_an_unreadable_image_ends_it_and_batches_before_it_are_kept(file, images):
    images = [images[0], images[2], *images]
    file.images = images
    with pytest.raises(UnreadableImageError, match=r"1\.png: not an image"):
        predict(file, images, None)
    assert file.done == 2
    assert [row["path"] for row in rows_of(file)] == images[:2]


def test_an_image_that_proved_unreadable_while_it_was_computed_has_no_answer(file, images):
    todo = Images(
        images, [0] * len(images), FileReader(Decoding(channels=3, size=(8, 8), geometry="cover", max_pixels=64))
    )
    todo.skipped = {images[2]: "cut off"}
    rows = WritePredictions(file, todo)._rows([1, 2, -3], [[0.5, 0.5], [0.1, 0.9], [0.5, 0.5]])
    assert rows[2] == [images[2], "", "", "", "cut off"]
    assert rows[1][-1] == ""
