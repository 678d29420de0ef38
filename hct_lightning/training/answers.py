"""What a network said of the validation images, as files of the run: for reports, and for whoever looks closer."""

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from hct_lightning.data.catalogue import Split
from hct_lightning.data.reading.channels import as_rgb
from hct_lightning.data.reading.geometry import resize
from hct_lightning.data.reading.image import UnreadableImageError
from hct_lightning.data.reading.readers import NativeReader, Reader
from hct_lightning.report.predictions import prediction_rows, read_predictions
from hct_lightning.runs.files import csv_text, open_whole
from hct_lightning.training.module import Answers

log = logging.getLogger(__name__)

MOST = 2_000_000  # probabilities that are written: of more the file is large, and writing it takes seconds
THUMBNAIL = 256  # px, the longer side


def write_answers(file: Path, answers: Answers, split: Split, classes: Sequence[str]) -> None:
    """Writes a CSV file with path, label, class, the probability of each class and the image's tags, a row an image.

    A tag with a name of these columns' kind has `tag_` before it.

    Args:
        file: in a folder that is made when absent.
        answers: of images of `split`.
        split: the images.
        classes: their names.
    """
    if answers.logits.numel() > MOST:
        log.info("%d probabilities are too many for %s: it is left out", answers.logits.numel(), file)
        return
    paths = [split.paths[i] for i in answers.index.tolist()]
    labels = [classes[label] for label in map(int, answers.labels)]
    rows = prediction_rows(paths, labels, list(classes), answers.logits.softmax(dim=1).numpy())
    for name, values in split.tags.items():
        ours = name == "class" or name.startswith(("p_", "tag_"))  # it would be taken for what the network says
        column = [f"tag_{name}" if ours else name, *(values[i] for i in answers.index.tolist())]
        rows = [[*row, value] for row, value in zip(rows, column, strict=True)]
    file.parent.mkdir(parents=True, exist_ok=True)
    with open_whole(file) as out:
        out.write(csv_text(rows).encode(errors="surrogateescape"))  # a path may be any bytes


def write_thumbnails(file: Path, reader: Reader) -> None:
    """Keeps small images of the best and the worst predictions of a CSV file, in the folder of its name.

    Args:
        file: that `write_answers` has written; nothing is done when it isn't there.
        reader: gives an image by its path, as the network sees it. One that can't be read is left out.
    """
    found = read_predictions(file) if file.exists() else None
    if not found:
        return
    file.with_suffix("").mkdir(exist_ok=True)
    for old in file.with_suffix("").glob("*.jpg"):
        old.unlink()
    for row in {*found.worst(), *found.best()}:
        with contextlib.suppress(UnreadableImageError):
            image = reader.open(found.paths[row]) if isinstance(reader, NativeReader) else reader(found.paths[row])
            if not isinstance(image, Tensor):
                continue  # too large to be read for that
            scale = min(1.0, THUMBNAIL / max(image.shape[-2:]))
            height, width = (max(1, round(side * scale)) for side in image.shape[-2:])
            small = resize(as_rgb(image), (height, width))
            with open_whole(found.thumbnail(row)) as out:
                Image.fromarray(small.permute(1, 2, 0).numpy()).save(out, "JPEG", quality=85)
