"""The data module: from a source to batches of uint8 images, for any number of ranks."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import lightning
import numpy as np
from torch.utils.data import BatchSampler

from hct_lightning.data.catalogue import Catalogue, Split
from hct_lightning.data.feeding.augment import Augmentation
from hct_lightning.data.feeding.loader import Batch, Images, Loader, Pixels, auto_workers
from hct_lightning.data.feeding.samplers import EveryImageOnce, GlobalBatches
from hct_lightning.data.reading.geometry import Geometry, as_size
from hct_lightning.data.reading.image import UnreadableImageError, probe
from hct_lightning.data.reading.readers import FileReader, Reader, Reduced
from hct_lightning.data.reading.window import Window, check_window
from hct_lightning.data.statistics import channel_statistics

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
        channels: 1 or 3, or the number of bands; by default what the images looked at have.
        mean: per channel, of pixels in 0..1; by default as `statistics` says.
        std: likewise.
        statistics: `imagenet` (their average for grey) or `data`: measured on training images. Those
            of many bands are always measured.
        flip: probability of a horizontal flip in training.
        augment: the other options of `Augmentation`.
        num_workers: threads that read ahead, or `auto`.
        prefetch_factor: batches that are kept ready.
        max_pixels: larger images are refused before they are decoded.
        window: see `read_image`.
        srgb: see `read_image`.
        breast: see `read_image`.
        on_error: `raise` ends the run at an unreadable image; `skip` notes it in `skipped` and trains
            with the next one instead; in validation it does not count.
        reduce_to: see `Reduced`.
        limit: at most this many images of each split, of all classes.
        seed: of order and augmentation.
        source_options: every other option is the source's own (`root` and so on).

    Attributes:
        skipped: the reasons of unreadable files, by path.
    """

    def __init__(
        self,
        source: Callable[..., Catalogue],
        *,
        resolution: int | Sequence[int] | None,
        geometry: Geometry | None = "cover",
        batch_size: int = 8,
        channels: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        statistics: str = "imagenet",
        flip: float = 0.5,
        augment: Mapping[str, float] | None = None,
        num_workers: int | str = "auto",
        prefetch_factor: int = 2,
        max_pixels: int = 2**30,
        window: Window | None = None,
        srgb: bool = False,
        breast: bool = False,
        on_error: str = "raise",
        reduce_to: int | None = None,
        limit: int | None = None,
        seed: int = 0,
        **source_options: Any,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"data.batch_size={batch_size}: give at least 1")
        if channels is not None and channels < 1:
            raise ValueError(f"data.channels={channels}: give 1 (grey), 3 (RGB) or the bands' number")
        if statistics not in ("imagenet", "data"):
            raise ValueError(f"data.statistics={statistics}: choose imagenet or data")
        if on_error not in ("raise", "skip"):
            raise ValueError(f"data.on_error={on_error}: choose raise or skip")
        if limit is not None and limit < 1:
            raise ValueError(f"data.limit={limit}: give at least 1, or null for all images")
        self.source = partial(source, **source_options)
        self.size = None if resolution is None else as_size(resolution)
        self.geometry = geometry
        self.batch_size = batch_size
        self._channels = channels
        self._mean = mean
        self._std = std
        self._statistics = statistics
        self.augment = Augmentation(flip=flip, **augment or {})
        self.num_workers = num_workers
        self.prefetch_factor = prefetch_factor
        self.max_pixels = max_pixels
        self.window = check_window(window) if window else None
        self.srgb = srgb
        self.breast = breast
        self.on_error = on_error
        self.skipped: dict[str, str] = {}
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
                found.source,
                found.classes,
                _limit(found.train, self.limit),
                _limit(found.valid, self.limit),
                found.notes,
                found.store,
            )
        if len(found.classes) < 2:
            raise ValueError(f"{found.source} has one class, {found.classes[0]}; it takes two")
        if not len(found.train) or not len(found.valid):
            side = "training" if not len(found.train) else "validation"
            raise ValueError(f"{found.source} has no {side} images; add some, or split differently")
        self.catalogue = found
        if found.store:
            self._take_from_store()
        elif self.size is None or self.geometry is None:
            raise ValueError("data.resolution and data.geometry are null; only data=store knows them")
        else:
            self._look_at_images()
        changes = self.augment.brightness or self.augment.contrast
        if changes and self.channels not in (1, 3):
            raise ValueError("data.augment.brightness and contrast are for 1 or 3 channels; set both 0")
        measure = self._statistics == "data" or self.channels not in (1, 3)
        if measure and not (self._mean and self._std):
            log.info("measuring mean and deviation of the training images")
            sample = self.images(_limit(found.train, 256))
            mean, std = channel_statistics(sample, auto_workers(self.num_workers))
        else:
            mean, std = (_imagenet(values, self.channels) for values in (IMAGENET_MEAN, IMAGENET_STD))
        self.mean, self.std = tuple(self._mean or mean), tuple(self._std or std)
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels:
                raise ValueError(f"data.{name} has {len(values)} values for {self.channels} channels")

    def _look_at_images(self) -> None:
        """Channels and sizes of the first images."""
        found = self.catalogue
        shapes = []
        for path in _limit(found.train, 32).paths + _limit(found.valid, 8).paths:
            try:
                shapes.append(probe(path, max_pixels=self.max_pixels))
            except UnreadableImageError as error:
                if self.on_error == "raise":
                    raise
                self.skipped[path] = str(error)
        if not shapes:
            raise ValueError(f"{found.source}: none of the {len(self.skipped)} images looked at can be read")
        self.channels = self._channels or max(channels for channels, _, _ in shapes)
        self.source_sizes = sorted((height, width) for _, height, width in shapes)
        self.reader: Reader = FileReader(
            channels=self.channels,
            size=self.size,
            geometry=self.geometry,
            max_pixels=self.max_pixels,
            window=self.window,
            srgb=self.srgb,
            breast=self.breast,
        )

    def _take_from_store(self) -> None:
        """What the store was made with; an option that says otherwise is refused."""
        store, recipe = self.catalogue.store, self.catalogue.store.recipe
        self.size = self.size or recipe.size
        self.geometry = self.geometry or recipe.geometry
        self.reader = store.reader(self.size, self.geometry)
        for name, mine, default in (
            ("channels", self._channels, None),
            ("window", self.window, None),
            ("srgb", self.srgb, False),
            ("breast", self.breast, False),
        ):
            made = getattr(recipe, name)
            if mine not in (default, made):
                raise ValueError(
                    f"the store {store.root} was prepared with data.{name}={made}, not {mine}; leave "
                    "it out, or prepare another store"
                )
        self.channels, self.window = recipe.channels, recipe.window
        self.source_sizes = sorted(item.source_size for item in store.items)

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
            "window": self.window or "16-bit: 0..65535, float: each image's own range, DICOM: the file's",
            "mean": self.mean,
            "std": self.std,
            "notes": found.notes,
        }

    def images(self, split: Split, *, replace: bool = False) -> Images:
        """The dataset of a split; `replace` as of `Images`."""
        return Images(
            split.paths,
            split.labels,
            Reduced(self.reader, self.reduce_to) if self.reduce_to else self.reader,
            skipped=self.skipped if self.on_error == "skip" else None,
            replace=replace,
        )

    def loader(self, images: Images, batches: Iterable[Sequence[int]]) -> Loader:
        """A loader over a dataset's batches, for this rank's device."""
        local = self.trainer.num_devices if self.trainer else 1
        return Loader(
            images,
            batches,
            num_workers=auto_workers(self.num_workers, ranks_here=local),
            prefetch_factor=self.prefetch_factor,
            device=self.trainer.strategy.root_device if self.trainer else None,
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
        return self.loader(self.images(self.catalogue.train, replace=True), self.order)

    def val_dataloader(self) -> Loader:
        shard = EveryImageOnce(len(self.catalogue.valid), rank=self.trainer.global_rank, world=self.trainer.world_size)
        size = max(1, self.batch_size // self.micro_batches)
        return self.loader(self.images(self.catalogue.valid), BatchSampler(shard, size, drop_last=False))

    def calibration(self, count: int) -> Pixels:
        """Batches, b c h w uint8, of training images as they are, the classes mixed in proportion."""
        split = _limit(self.catalogue.train, count)
        return Pixels(self._one_by_one(split, np.random.default_rng(self.seed).permutation(len(split))))

    def evaluation(self, count: int) -> Loader:
        """Batches of validation images, the classes in proportion."""
        split = _limit(self.catalogue.valid, count)
        return self._one_by_one(split, np.arange(len(split)))

    def _one_by_one(self, split: Split, order: np.ndarray) -> Loader:
        """On the CPU, whatever the trainer's device."""
        return Loader(
            self.images(split),
            [[i] for i in order.tolist()],
            num_workers=auto_workers(self.num_workers),
            prefetch_factor=self.prefetch_factor,
        )

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Augments training batches on the device, seeded by (seed, epoch, index)."""
        if self.trainer.training:
            epoch = self.order.epoch(self.trainer.global_step)
            return self.augment(batch, seed=self.seed, epoch=epoch, classes=len(self.classes))
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
