"""Augmentation of uint8 batches where they are: on the CPU by OpenCV (`host`), on other devices by PyTorch (`device`).

What happens to an image is drawn from (seed, epoch, index, number of the crop) and nothing else: it is the same for any
number of ranks and micro-batches. Only mixing takes a second image: the one before in the micro-batch (the last one
for the first), so with mixing the micro-batch an image stands in matters, and one alone is not mixed.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hct_lightning.data.feeding.augment import damage, device, host
from hct_lightning.data.feeding.augment.geometry import Matrix, flipped, linear, window
from hct_lightning.data.feeding.augment.mixing import mix
from hct_lightning.data.feeding.augment.tones import tone_table
from hct_lightning.data.feeding.loader import Batch
from hct_lightning.data.reading.geometry import Size
from hct_lightning.data.reading.regions import Regions, Turned

STEP = 32  # pixels by which sides of crops grow
SMALLEST = 128  # that HCT takes

_OPEN = ("crop_size", "crops")
_WHOLE = (*_OPEN, "jitter")
_UNLIMITED = (*_OPEN, "jitter", "scale", "aspect", "mixup", "cutmix")
_LEAST = {"crop": 0.1, "crop_size": SMALLEST, "crops": 1}
_MOST = {"rotation": 45, "noise": 255, "colour": 1}


class Augmentation:
    """Changes training batches.

    Args:
        flip: probability of a flip from left to right.
        vertical_flip: probability of a flip from top to bottom.
        quarter_turns: probability of a turn by 90, 180 or 270 degrees (180 unless height = width).
        jitter: the crop moves by up to so many pixels, up and down and to the sides, at full
            resolution; what it reaches beyond the image is mirrored.
        crop: sides of a training crop when training begins, as a share of the image's. A crop is at full resolution;
            as many are taken of an image as have its area together.
        crop_end: their share in the end, to which they grow linearly, 1 for whole images; no more than `crop` leaves
            them at that.
        crop_until: the part of the training after which they don't grow any more.
        crop_size: pixels a side instead of these shares, throughout; None: as they say.
        crops: at most so many are taken of an image; None: as many as have its area.
        resample: probability of what the next three say; other images keep every pixel as it is.
        scale: the image is enlarged by factors of 1 / (1 + scale) .. 1 + scale.
        aspect: its height is enlarged against its width by factors of 1 / (1 + aspect) .. 1 + aspect.
        rotation: it is turned by up to so many degrees.
        brightness: factors within 1 - brightness .. 1 + brightness.
        contrast: factors within 1 - contrast .. 1 + contrast.
        colour: factors of each channel within 1 - colour .. 1 + colour.
        blur: probability of a blur, of a deviation of 0.7 to 1.2 pixels.
        noise: deviation of normal noise, drawn within 0 .. noise, of values of 0..255.
        jpeg: probability of JPEG at a quality of 30 to 90.
        erase: probability that a box, a tenth to a half of each side, has one value.
        mixup: alpha of Beta(alpha, alpha), from which the share of the other image is drawn.
        cutmix: likewise, of the other image's area; with both, each image gets one of them.
        mix_until: the part of the training after which images are no longer mixed.

    Raises:
        ValueError: for a value out of range.
    """

    def __init__(
        self,
        *,
        flip: float = 0.0,
        vertical_flip: float = 0.0,
        quarter_turns: float = 0.0,
        jitter: int = 0,
        crop: float = 1.0,
        crop_end: float = 1.0,
        crop_until: float = 1.0,
        crop_size: int | None = None,
        crops: int | None = None,
        resample: float = 0.5,
        scale: float = 0.0,
        aspect: float = 0.0,
        rotation: float = 0.0,
        brightness: float = 0.0,
        contrast: float = 0.0,
        colour: float = 0.0,
        blur: float = 0.0,
        noise: float = 0.0,
        jpeg: float = 0.0,
        erase: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        mix_until: float = 0.8,
    ) -> None:
        options: dict[str, Any] = {key: value for key, value in locals().items() if key != "self"}
        for name, value in options.items():
            if name in _OPEN and value is None:
                continue
            least, most = _LEAST.get(name, 0), math.inf if name in _UNLIMITED else _MOST.get(name, 1)
            whole = name in _WHOLE
            if not least <= value <= most or (whole and not isinstance(value, int)):
                where = "data.flip" if name == "flip" else f"data.augment.{name}"
                raise ValueError(f"{where}={value}: give {'a whole number, ' if whole else ''}{least} to {most}")
        self.flip = flip
        self.vertical_flip = vertical_flip
        self.quarter_turns = quarter_turns
        self.jitter = jitter
        self.crop = crop
        self.crop_end = crop_end
        self.crop_until = crop_until
        self.crop_size = crop_size
        self.most_crops = crops
        self.resample = resample
        self.scale = scale
        self.aspect = aspect
        self.rotation = rotation
        self.brightness = brightness
        self.contrast = contrast
        self.colour = colour
        self.blur = blur
        self.noise = noise
        self.jpeg = jpeg
        self.erase = erase
        self.mixup = mixup
        self.cutmix = cutmix
        self.mix_until = mix_until
        how = ("crop_end", "crop_until", "crops", "resample", "mix_until")
        off = {"crop": 1.0, "crop_size": None} | {name: options[name] for name in how}
        self._used = {name: value for name, value in options.items() if value != off.get(name, 0)}
        self.active = bool(self._used)

    @property
    def grows(self) -> bool:
        """Whether crops grow during the training, so that batches change their size."""
        return self.crop_size is None and self.crop < self.crop_end

    def extra_bytes(self, images: int, *, image_bytes: int, workers: int = 1) -> int:
        """The most that a call takes beside a batch: copies, as floats where PyTorch calculates.

        Args:
            images: of the batch.
            image_bytes: of one.
            workers: threads that each change one, where OpenCV does.
        """
        resampling = self.scale or self.aspect or self.rotation
        changing = min(workers, images) * (3 if resampling else 2) if self.active else 0
        for used, copies in (
            (resampling, 7),
            (self.brightness or self.contrast or self.colour, 6),
            (self.blur, 3),
            (self.noise, 7),  # of small images; large ones have less noise of their own
            (self.jpeg, 2),
        ):
            changing = max(changing, copies if used else 0)
        mixing = images + (6 if self.mixup else 0) if images > 1 and (self.mixup or self.cutmix) else 0
        crops = images if self.crop < 1 or self.crop_size else 0
        return (crops + max(changing, mixing)) * image_bytes

    def crops(self, size: Size, progress: float) -> tuple[int, Size]:
        """How many crops are taken of an image, and their size.

        Args:
            size: of the images.
            progress: the part of the training that is done.
        """
        grown = 1.0 if progress >= self.crop_until else progress / self.crop_until
        share = self.crop + max(0.0, self.crop_end - self.crop) * grown
        sides = (self.crop_size or max(SMALLEST, math.ceil(share * side / STEP) * STEP) for side in size)
        height, width = (min(pair) for pair in zip(size, sides, strict=True))
        count = size[0] * size[1] // (height * width)
        return min(count, self.most_crops or count), (height, width)

    def __call__(self, batch: Batch, *, seed: int, epoch: int, classes: int, progress: float = 0.0) -> Batch:
        """The batch, changed in place where crops are whole images; its labels are shares of the classes when mixed.

        Where several crops are taken, there are first one of each image, then a second, and so on, with their labels;
        `index` has each image once.
        """
        if not self.active:
            return batch
        if not isinstance(batch.images, Tensor):
            rng = np.random.default_rng((seed, epoch, int(batch.index[0])))
            return batch._replace(images=self._turn(batch.images, rng))
        count, size = self.crops((batch.images.shape[2], batch.images.shape[3]), progress)
        whole = size == tuple(batch.images.shape[2:])
        keys = [(seed, epoch, i, *([n] if n else [])) for n in range(count) for i in batch.index.tolist()]
        rngs = [np.random.default_rng(key) for key in keys]
        images = batch.images.permute(0, 2, 3, 1)  # b h w c
        places = images if whole else images.new_empty((len(keys), *size, images.shape[3]))
        _at_once(self._change, [*images] * count, places, rngs)
        batch = batch._replace(images=places.permute(0, 3, 1, 2), labels=batch.labels.repeat(count))
        if (self.mixup or self.cutmix) and progress < self.mix_until:
            return mix(batch, rngs, classes, mixup=self.mixup, cutmix=self.cutmix)
        return batch

    def check_regions(self) -> None:
        """Raises ValueError for what can't be done to an image that is read by region."""
        for name in self._used.keys() - {"flip", "vertical_flip", "quarter_turns"}:
            raise ValueError(
                f"data.augment.{name}={self._used[name]} changes whole images, and with memory=stream "
                "data.resolution=native reads large ones by region; give recipe=plain (flips and quarter turns work)"
            )

    def _turn(self, image: Regions, rng: np.random.Generator) -> Turned:
        """What `_change` does to an image in memory, as far as `check_regions` lets it."""
        flip, vertical_flip, turn = rng.random(3)
        turns = rng.integers(1, 4)
        height, width, _ = image.shape
        quarters = 0 if turn >= self.quarter_turns else -int(turns) if height == width else 2
        return Turned(image, flip=flip < self.flip, vertical_flip=vertical_flip < self.vertical_flip, quarters=quarters)

    def _change(self, image: Tensor, place: Tensor, rng: np.random.Generator) -> None:
        """h w c -> h w c, to `place`, which may be the image. All is drawn whatever is used, so that options don't
        shift one another."""
        flip, vertical_flip, turn = rng.random(3)
        flips = bool(vertical_flip < self.vertical_flip), bool(flip < self.flip)
        turns = int(rng.integers(1, 4))
        furthest = self.jitter or 1  # numpy draws nothing where there is nothing to choose
        shift = rng.integers(-furthest, furthest + 1, 2) * (self.jitter > 0)
        brightness, contrast = 1 + rng.uniform(-1, 1, 2) * (self.brightness, self.contrast)
        where, zoom, aspect, angle = rng.random(2), *rng.uniform(-1, 1, 3)
        colour = 1 + rng.uniform(-1, 1, image.shape[2]) * self.colour
        resampled, *damages = rng.random(4)
        strengths = rng.random(8)
        noise_seed = int(rng.integers(2**62))

        size = place.shape[0], place.shape[1]
        ways = ways_for(image)
        if (self.scale or self.aspect or self.rotation) and resampled < self.resample:
            centre, matrix = self._view((image.shape[0], image.shape[1]), size, where, shift, (zoom, aspect, angle))
            changed = ways.resample(image, centre, flipped(matrix, flips), size)
        else:
            room = np.array(image.shape[:2]) - size
            top, left = (np.round(where * room).astype(int) + shift).tolist()
            changed = window(image, (top, left), size)  # a view where it can be
            if any(flips):
                changed = changed.flip([dim for dim in (0, 1) if flips[dim]])
        if turn < self.quarter_turns:
            changed = changed.rot90(turns if image.shape[0] == image.shape[1] else 2, (1, 0))
        if self.brightness or self.contrast or self.colour:
            factors = colour.tolist() if self.colour else None
            table = tone_table(changed, brightness=brightness, contrast=contrast, colour=factors)
            ways.look_up(changed, table, place)
        elif changed.data_ptr() != place.data_ptr() or changed.stride() != place.stride():
            place.copy_(changed)
        if damages[0] < self.blur:
            ways.blur(place, 1 + int(3 * strengths[0]))
        if self.noise:
            ways.add_noise(place, self.noise * strengths[1], noise_seed)
        if damages[1] < self.jpeg:
            damage.compress(place, round(30 + 60 * strengths[2]))
        if damages[2] < self.erase:
            sides = 0.1 + 0.4 * strengths[3:5]
            damage.erase(place, tuple(strengths[5:7]), tuple(sides), int(256 * strengths[7]))

    def _view(
        self, shape: Size, size: Size, where: np.ndarray, shift: np.ndarray, drawn: tuple[float, float, float]
    ) -> tuple[tuple[float, float], Matrix]:
        """Centre and matrix of a resampled crop of `size`, at `where` of all places that it fits in and moved by `shift`.

        `drawn`, numbers of -1 to 1, are for scale, aspect and rotation.
        """
        zoom, stretch = ((1 + most) ** part for most, part in zip((self.scale, self.aspect), drawn, strict=False))
        zooms = zoom * math.sqrt(stretch), zoom / math.sqrt(stretch)
        room = np.array(shape) - np.array(size) / zooms
        down, right = ((np.array(shape) - 1) / 2 + (where - 0.5) * room + shift).tolist()
        return (down, right), linear(zooms, self.rotation * drawn[2])


def _at_once(
    change: Callable[[Tensor, Tensor, np.random.Generator], None], images: Sequence[Tensor], *more: Any
) -> None:
    """Changes images one after the other; by OpenCV several at a time, for most of what it does has one thread only."""
    threads = torch.get_num_threads()
    workers = min(threads, len(images)) if ways_for(images[0]) is host else 1
    if workers == 1:
        list(map(change, images, *more))
        return
    share = partial(torch.set_num_threads, threads // workers)  # of this thread; and of those that come later
    try:
        with ThreadPoolExecutor(workers, "augment", share) as pool:
            list(pool.map(change, images, *more))
    finally:
        torch.set_num_threads(threads)


def ways_for(image: Tensor) -> ModuleType:
    """The operations for where the image is: by OpenCV on the host, as far as it goes, by PyTorch elsewhere."""
    if image.device.type != "cpu" or image.shape[2] > host.MOST_CHANNELS or not host.FINE:
        return device
    host.use_threads_of_torch()
    return host
