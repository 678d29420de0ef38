"""What the network says of hidden blocks, to look at: `pretrain/filled.jpg`."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from PIL import Image
from torch import Tensor

from hct_lightning.data.reading.channels import as_rgb
from hct_lightning.runs.files import open_whole

IMAGES = 4
SIDE = 256  # pixels of each, of its centre; more where blocks are large
GAP = 8


class FilledImages(Callback):
    """Writes a picture after each validation: of four images the centre as it is, with hidden blocks, and filled.

    They are the first validation images. Mean and contrast of each patch of 8 px are the true ones.
    """

    def __init__(self) -> None:
        self._images: Tensor | None = None

    def on_validation_batch_start(
        self, trainer: Any, module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if batch_idx == 0:
            self._images = centre(batch.images[:IMAGES], max(SIDE, 4 * module.block))

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        shown = self._images is not None and module.takes(self._images)
        if not shown or not trainer.is_global_zero or trainer.sanity_checking or trainer.fast_dev_run:
            return
        file = Path(trainer.default_root_dir) / "pretrain" / "filled.jpg"
        file.parent.mkdir(exist_ok=True)
        with open_whole(file) as out:
            sheet(module.pictures(self._images)).save(out, "JPEG", quality=90)


def centre(images: Tensor, side: int) -> Tensor:
    """b c h w, of which at most `side` rows and columns are left."""
    top, left = (max(0, whole - side) // 2 for whole in images.shape[2:])
    return images[:, :, top : top + side, left : left + side]


def sheet(pictures: Tensor) -> Image.Image:
    """k b c h w uint8 -> a row for each of the b images, with its k pictures side by side."""
    k, b, _, h, w = pictures.shape
    page = torch.full((b * (h + GAP) - GAP, k * (w + GAP) - GAP, 3), 255, dtype=torch.uint8)
    for row in range(b):
        for column in range(k):
            top, left = row * (h + GAP), column * (w + GAP)
            page[top : top + h, left : left + w] = as_rgb(pictures[column, row]).permute(1, 2, 0)
    return Image.fromarray(page.numpy())
