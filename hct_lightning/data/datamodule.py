"""The data module: from a source to batches of uint8 images, for any number of ranks."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import lightning
import numpy as np
import torch
from torch.utils.data import BatchSampler

from hct_lightning.data.catalogue import Catalogue, Split
from hct_lightning.data.dataset import Dataset, open_dataset
from hct_lightning.data.feeding.augment.augmentation import Augmentation
from hct_lightning.data.feeding.images import Images
from hct_lightning.data.feeding.loader import Batch, Loader, Pixels, auto_workers, batches_ahead
from hct_lightning.data.feeding.samplers import EveryImageOnce, GlobalBatches
from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.data.reading.geometry import NATIVE, Geometry, as_size
from hct_lightning.data.reading.readers import WHOLE_BYTES
from hct_lightning.data.reading.window import Window


class ImageData(lightning.LightningDataModule):
    """Images of a source, cropped to one resolution, in global batches that depend on seed and step.

    Args:
        source: a function of `hct_lightning.data.sources`, gives the catalogue of images and labels.
        resolution: pixels a side, or [height, width]; `native`: each image as it is, alone in its micro-batch; None:
            the store's.
        geometry: see `Decoding`, like `max_pixels`, `window`, `srgb`, `breast` and `reduce_to`; None: the store's.
        batch_size: images per device and optimiser step.
        channels: 1 or 3, or the number of bands; None: what the images looked at have.
        mean: per channel, of pixels in 0..1; None: as `statistics` says.
        std: likewise.
        statistics: `imagenet` (their average for grey) or `data`: measured on training images. Those
            of many bands are always measured.
        flip: probability of a horizontal flip in training.
        augment: the other options of `Augmentation`.
        num_workers: threads that read ahead, or `auto`.
        prefetch_factor: batches that are kept ready.
        max_pixels: larger images are refused before they are decoded.
        on_error: `raise` ends the run at an unreadable image; `skip` notes it in the dataset's `skipped` and
            trains with the next one instead; in validation it does not count.
        limit: at most this many images of each split, of all classes; None: all.
        limit_valid: likewise of the validation images alone.
        train_fraction: of the training images; see `Catalogue.part_of_training`. None: all.
        seed: of order and augmentation.
        source_options: every other option is the source's own (`root` and so on).
    """

    def __init__(
        self,
        source: Callable[..., Catalogue],
        *,
        resolution: int | Sequence[int] | str | None,
        geometry: Geometry | None,
        batch_size: int,
        channels: int | None,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        statistics: str,
        flip: float,
        augment: Mapping[str, float],
        num_workers: int | str,
        prefetch_factor: int,
        max_pixels: int,
        window: Window | None,
        srgb: bool | None,
        breast: bool | None,
        on_error: str,
        reduce_to: int | None,
        limit: int | None,
        limit_valid: int | None,
        train_fraction: float | None,
        seed: int,
        **source_options: Any,
    ) -> None:
        super().__init__()
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"data.batch_size={batch_size}: give a whole number of at least 1")
        if statistics not in ("imagenet", "data"):
            raise ValueError(f"data.statistics={statistics}: choose imagenet or data")
        if on_error not in ("raise", "skip"):
            raise ValueError(f"data.on_error={on_error}: choose raise or skip")
        for option, most in (("limit", limit), ("limit_valid", limit_valid)):
            if most is not None and (not isinstance(most, int) or most < 1):
                raise ValueError(f"data.{option}={most}: give a whole number of at least 1, or null for all images")
        for option, values in (("mean", mean), ("std", std)):
            if values is not None and (isinstance(values, str) or not isinstance(values, Sequence)):
                raise ValueError(f"data.{option}={values}: give a list of a number for each channel, or null")
        if not isinstance(augment, Mapping):
            raise ValueError(f"data.augment={augment}: give options by their names; recipe=plain leaves them out")
        if train_fraction is not None and not (isinstance(train_fraction, int | float) and 0 < train_fraction <= 1):
            raise ValueError(f"data.train_fraction={train_fraction}: give a fraction above 0, or null for all images")
        if source_options.get("root") is not None:
            source_options["root"] = str(source_options["root"])  # for Hydra a folder 2024 is a number
        self.source = partial(source, **source_options)
        self.decoding = {
            "channels": channels,
            "size": resolution if resolution in (None, NATIVE) else as_size(resolution),
            "geometry": geometry,
            "max_pixels": max_pixels,
            "window": window,
            "srgb": srgb,
            "breast": breast,
            "reduce_to": reduce_to,
        }
        known = {name: value for name, value in self.decoding.items() if value is not None}
        Decoding(**{"channels": 1, "size": None, "geometry": "cover"} | known)  # says at once what can't be
        self.batch_size = batch_size
        self.statistics = {"mean": mean, "std": std, "statistics": statistics}
        self.augment = Augmentation(flip=flip, **dict[str, Any](augment))
        self.num_workers = num_workers
        self.prefetch_factor = prefetch_factor
        self.on_error = on_error
        self.limit = limit
        self.limit_valid = limit_valid
        self.train_fraction = train_fraction
        self.seed = seed
        self._dataset: Dataset | None = None
        self._training: Loader | None = None  # reads ahead until it is closed
        self._more: Loader | None = None  # likewise
        self._global_batch: int | None = None
        self.micro_batches = 1
        self.total_steps: Callable[[], float] = lambda: self._running.estimated_stepping_batches
        self.measured = "valid"  # the split that validation goes through

    @property
    def dataset(self) -> Dataset:
        """What the source gives; asked once, when it is first needed."""
        if self._dataset is None:
            found = self.source()
            if self.train_fraction:
                found = found.part_of_training(self.train_fraction)
            if self.limit:
                found = found.at_most(self.limit)
            if self.limit_valid:
                found = replace(found, valid=found.valid.at_most(self.limit_valid))
            self._dataset = open_dataset(
                found,
                decoding=self.decoding,
                **self.statistics,
                skips=self.on_error == "skip",
                workers=auto_workers(self.num_workers),
            )
        return self._dataset

    def read_by_region(self, most_pixels: int) -> None:
        """Opens images of their own sizes and more pixels instead of reading them whole: for a network that streams."""
        self._dataset = self.dataset.read_by_region(most_pixels)

    def augment_by_region(self) -> None:
        """Lets training read large images of their own sizes by region.

        Raises:
            ValueError: when they are to be changed in a way that needs the whole.
        """
        if self.dataset.reader.varies:
            self.augment.check_regions()
            self.read_by_region(WHOLE_BYTES // self.dataset.decoding.channels)

    @property
    def _running(self) -> lightning.Trainer:
        """The trainer, which is there as soon as it asks for batches."""
        assert self.trainer, "a trainer asks for batches"
        return self.trainer

    @property
    def global_batch(self) -> int:
        """Images of a step, over all ranks; where `trains_with` has not said it, batch_size on each."""
        return self._global_batch or self.batch_size * self._running.world_size

    def trains_with(self, global_batch: int, micro_batches: int, total_steps: Callable[[], float]) -> None:
        """Takes what is planned: images of a step, in how many parts a rank takes its own, and how many steps there are."""
        self._global_batch, self.micro_batches, self.total_steps = global_batch, micro_batches, total_steps

    def setup(self, stage: str | None = None) -> None:
        _ = self.dataset

    def loader(self, images: Images, batches: GlobalBatches | BatchSampler | list[list[int]]) -> Loader:
        """A loader over a dataset's batches, for this rank's device."""
        local = self.trainer.num_devices if self.trainer else 1
        return Loader(
            images,
            batches,
            num_workers=auto_workers(self.num_workers, ranks_here=local),
            prefetch_factor=self.prefetch_factor,
            device=self.trainer.strategy.root_device if self.trainer else None,
        )

    def batches_ahead(self, images: int, *, ranks_here: int) -> int:
        """How many batches of so many images the loader holds on the host beside the one that is trained on."""
        workers = auto_workers(self.num_workers, ranks_here=ranks_here)
        return 1 + batches_ahead(self.dataset.reader, images, workers, self.prefetch_factor)

    def train_dataloader(self) -> Loader:
        trainer, train = self._running, self.dataset.catalogue.train
        self.order = GlobalBatches(
            len(train),
            self.global_batch,
            seed=self.seed,
            step=lambda: trainer.global_step,
            rank=trainer.global_rank,
            world=trainer.world_size,
            micro_batches=self.micro_batches,
            last_step=lambda: trainer.estimated_stepping_batches,
        )
        self._training = self.loader(self.dataset.images(train, replace=True), self.order)
        return self._training

    def more_batches(self) -> Iterator[Batch]:
        """This rank's batches of training images in another order, without an end: for one that computes more than its share."""
        trainer, train = self._running, self.dataset.catalogue.train
        taken = 0
        order = GlobalBatches(
            len(train),
            self.global_batch,
            seed=self.seed + 1,
            step=lambda: taken,
            rank=trainer.global_rank,
            world=trainer.world_size,
            last_step=lambda: math.inf,
        )
        self._more = self.loader(self.dataset.images(train, replace=True), order)
        while True:
            for batch in self._more:
                taken += 1
                yield batch

    def teardown(self, stage: str) -> None:
        for loader in (self._training, self._more):
            if loader:
                loader.close()

    def on_exception(self, exception: BaseException) -> None:
        self.teardown("fit")

    def val_dataloader(self) -> Loader:
        split = self.dataset.catalogue.splits[self.measured]
        shard = EveryImageOnce(len(split), rank=self._running.global_rank, world=self._running.world_size)
        size = 1 if self.dataset.reader.varies else max(1, self.batch_size // self.micro_batches)
        return self.loader(self.dataset.images(split), BatchSampler(shard, size, drop_last=False))

    def without_augmentation(self, count: int) -> Loader:
        """This rank's batches of training images as they are, on its device; about `count` images over all ranks.

        They are as large as in training. Every rank has as many, and which they are depends on their size alone.
        """
        world, train = self._running.world_size, self.dataset.catalogue.train
        size = max(1, self.global_batch // (world * self.micro_batches))
        batches = max(1, min(count, len(train)) // (size * world)) * world
        order = np.random.default_rng(self.seed).permutation(len(train))[: batches * size]
        mine = order.reshape(batches, size)[self._running.global_rank :: world]
        return self.loader(self.dataset.images(train, replace=True), mine.tolist())

    def calibration(self, count: int) -> Pixels:
        """Batches, b c h w uint8, of training images as they are, the classes mixed in proportion."""
        split = self.dataset.catalogue.train.at_most(count)
        order = np.random.default_rng(self.seed).permutation(len(split))
        return Pixels(self._one_by_one(split, order, replace=True))

    def evaluation(self, count: int) -> Loader:
        """Batches of validation images, the classes in proportion; the index of one that is skipped is negative."""
        split = self.dataset.catalogue.valid.at_most(count)
        return self._one_by_one(split, np.arange(len(split)))

    def _one_by_one(self, split: Split, order: np.ndarray, *, replace: bool = False) -> Loader:
        """On the CPU, whatever the trainer's device."""
        return Loader(
            self.dataset.images(split, replace=replace),
            [[i] for i in order.tolist()],
            num_workers=auto_workers(self.num_workers),
            prefetch_factor=self.prefetch_factor,
        )

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Images and labels, unless the loader has sent them ahead. The host reads the index, which stays there."""
        images = batch.images.to(device) if isinstance(batch.images, torch.Tensor) else batch.images
        return batch._replace(images=images, labels=batch.labels.to(device))

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Augments training batches on the device, seeded by (seed, epoch, index)."""
        if not self._running.training or not len(batch.index):
            return batch
        step = self._running.global_step
        return self.augment(
            batch,
            seed=self.seed,
            epoch=self.order.epoch(step),
            classes=len(self.dataset.classes),
            progress=step / self.total_steps(),
        )
