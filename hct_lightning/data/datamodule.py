"""The data module: from a source to batches of uint8 images, for any number of ranks."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import lightning
import numpy as np

from hct_lightning.data.geometry import Geometry, as_size
from hct_lightning.data.images import probe
from hct_lightning.data.loading import (
    Batch,
    Images,
    Loader,
    auto_workers,
    collate,
    collate_images,
    worker_init,
)
from hct_lightning.data.samplers import EveryImageOnce, GlobalBatches
from hct_lightning.data.sources import Catalogue, Split

log = logging.getLogger(__name__)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class ImageData(lightning.LightningDataModule):
    """Images of a source, cropped to one resolution, in global batches that depend on seed and step.

    Args:
        source: a function of `hct_lightning.data.sources`, gives the catalogue of images and labels.
        resolution: pixels a side, or [height, width].
        geometry: `cover` or `paper`.
        batch_size: images per device and optimiser step.
        channels: 1 or 3; by default 1 when all the images looked at are grey.
        mean: per channel, of pixels in 0..1; by default ImageNet's (their average for grey).
        std: likewise.
        flip: probability of a horizontal flip in training.
        num_workers: loader processes, or `auto`.
        prefetch_factor: batches that each worker keeps ready.
        max_pixels: larger images are refused before they are decoded.
        window: [low, high] that become 0 and 255 for 16-bit and float images.
        reduce_to: see `Images`.
        limit: at most this many images of each split, of all classes.
        seed: of order and augmentation.
        source_options: every other option is the source's own (`root` and so on).
    """

    def __init__(
        self,
        source: Callable[..., Catalogue],
        *,
        resolution: int | Sequence[int],
        geometry: Geometry = "cover",
        batch_size: int = 8,
        channels: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        flip: float = 0.5,
        num_workers: int | str = "auto",
        prefetch_factor: int = 2,
        max_pixels: int = 2**30,
        window: Sequence[float] | None = None,
        reduce_to: int | None = None,
        limit: int | None = None,
        seed: int = 0,
        **source_options: Any,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"data.batch_size={batch_size}: give at least 1")
        if channels not in (None, 1, 3):
            raise ValueError(f"data.channels={channels}: images are read as 1 (grey) or 3 (RGB)")
        if limit is not None and limit < 1:
            raise ValueError(f"data.limit={limit}: give at least 1, or null for all images")
        if window and not (len(window) == 2 and window[0] < window[1]):
            raise ValueError(f"data.window={list(window)}: give [low, high] with low < high")
        self.source = partial(source, **source_options)
        self.size = as_size(resolution)
        self.geometry = geometry
        self.batch_size = batch_size
        self._channels = channels
        self._mean = mean
        self._std = std
        self.flip = flip
        self.num_workers = num_workers
        self.prefetch_factor = prefetch_factor
        self.max_pixels = max_pixels
        self.window = tuple(window) if window else None
        self.reduce_to = reduce_to
        self.limit = limit
        self.seed = seed
        self.catalogue: Catalogue | None = None
        self.global_batch: int | None = None  # over all ranks; by default batch_size on each
        self.micro_batches = 1

    def prepare(self) -> None:
        """Asks the source what there is, and the first images how they are. Once."""
        if self.catalogue is not None:
            return
        found = self.source()
        if self.limit:
            found = Catalogue(
                found.source, found.classes,
                _limit(found.train, self.limit), _limit(found.valid, self.limit), found.notes,
            )  # fmt: skip
        if len(found.classes) < 2:
            raise ValueError(f"{found.source} has one class, {found.classes[0]}; it takes two")
        if not len(found.train) or not len(found.valid):
            side = "training" if not len(found.train) else "validation"
            raise ValueError(f"{found.source} has no {side} images; add some, or split differently")
        self.catalogue = found
        looked_at = _limit(found.train, 32).paths + _limit(found.valid, 8).paths
        shapes = [probe(path, max_pixels=self.max_pixels) for path in looked_at]
        self.channels = self._channels or max(channels for channels, _, _ in shapes)
        self.source_sizes = sorted((height, width) for _, height, width in shapes)
        self.mean = tuple(self._mean or _imagenet(IMAGENET_MEAN, self.channels))
        self.std = tuple(self._std or _imagenet(IMAGENET_STD, self.channels))
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels:
                raise ValueError(
                    f"data.{name} has {len(values)} values for {self.channels} channels"
                )

    def setup(self, stage: str | None = None) -> None:
        self.prepare()

    @property
    def classes(self) -> tuple[str, ...]:
        return self.catalogue.classes

    def summary(self) -> dict[str, Any]:
        """What is known of the data, for the log and for run.json."""
        found, (smallest, *_, largest) = (
            self.catalogue,
            [*self.source_sizes[:1], *self.source_sizes],
        )
        counts = {}
        for name, split in (("train", found.train), ("valid", found.valid)):
            seen = Counter(split.labels)
            counts[name] = {cls: seen[i] for i, cls in enumerate(found.classes)}
        return {
            "source": found.source,
            "counts": counts,
            "images": {"train": len(found.train), "valid": len(found.valid)},
            "channels": self.channels,
            "source_size": {"smallest": smallest, "largest": largest},
            "resolution": self.size,
            "geometry": self.geometry,
            "reduce_to": self.reduce_to,
            "window": self.window or "16-bit: 0..65535, float: each image's own range",
            "mean": self.mean,
            "std": self.std,
            "notes": found.notes,
        }

    def images(self, split: Split) -> Images:
        """The dataset of a split."""
        return Images(
            split.paths,
            split.labels,
            channels=self.channels,
            size=self.size,
            geometry=self.geometry,
            max_pixels=self.max_pixels,
            window=self.window,
            reduce_to=self.reduce_to,
        )

    def loader(self, split: Split, **options: Any) -> Loader:
        """A loader over a split; `options` are DataLoader's."""
        local = self.trainer.num_devices if self.trainer else 1
        workers = auto_workers(self.num_workers, ranks_here=local)
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return Loader(
            self.images(split),
            num_workers=workers,
            prefetch_factor=self.prefetch_factor if workers else None,
            persistent_workers=workers > 0,
            worker_init_fn=worker_init,
            pin_memory=on_gpu,
            **{"collate_fn": collate} | options,
        )

    def train_dataloader(self) -> Loader:
        trainer = self.trainer
        self.order = GlobalBatches(
            len(self.catalogue.train),
            self.global_batch or self.batch_size * trainer.world_size,
            seed=self.seed,
            step=lambda: trainer.global_step,
            rank=trainer.global_rank,
            world=trainer.world_size,
            micro_batches=self.micro_batches,
        )
        return self.loader(self.catalogue.train, batch_sampler=self.order)

    def val_dataloader(self) -> Loader:
        shard = EveryImageOnce(
            len(self.catalogue.valid), rank=self.trainer.global_rank, world=self.trainer.world_size
        )
        return self.loader(
            self.catalogue.valid,
            sampler=shard,
            batch_size=max(1, self.batch_size // self.micro_batches),
        )

    def calibration(self, count: int) -> Loader:
        """Batches, b c h w uint8, of training images as they are, the classes mixed in proportion."""
        split = _limit(self.catalogue.train, count)
        order = np.random.default_rng(self.seed).permutation(len(split)).tolist()
        return self.loader(split, sampler=order, collate_fn=collate_images)

    def evaluation(self, count: int) -> Loader:
        """Batches of validation images, the classes in proportion."""
        return self.loader(_limit(self.catalogue.valid, count))

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Augments training batches on the device, seeded by (seed, epoch, index)."""
        if self.trainer.training and self.flip:
            epoch = self.order.epoch(self.trainer.global_step)
            for image, index in zip(batch.images, batch.index.tolist(), strict=True):
                if np.random.default_rng((self.seed, epoch, index)).random() < self.flip:
                    image.copy_(image.flip(-1))
        return batch


def _imagenet(values: Sequence[float], channels: int) -> Sequence[float]:
    return values if channels == 3 else [sum(values) / 3] * channels


def _limit(split: Split, most: int) -> Split:
    """At most `most` images, evenly spaced by class, so that the classes keep their proportions."""
    if len(split) <= most:
        return split
    by_class = np.argsort(split.labels, kind="stable")
    chosen = by_class[np.linspace(0, len(split) - 1, most).round().astype(int)].tolist()
    return Split([split.paths[i] for i in chosen], [split.labels[i] for i in chosen])
