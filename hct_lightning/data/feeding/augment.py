"""Augmentation of uint8 batches on the device.

What happens to an image is drawn from (seed, epoch, index) and nothing else: it is the same for any
number of ranks and micro-batches. Only mixing takes a second image: the one before in the micro-batch (the last one
for the first), so with mixing the micro-batch an image stands in matters, and one alone is not mixed.
"""

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from hct_lightning.data.feeding.loader import Batch
from hct_lightning.data.reading.regions import Regions, Turned


class Augmentation:
    """Changes training batches.

    Args:
        flip: probability of a flip from left to right.
        vertical_flip: probability of a flip from top to bottom.
        quarter_turns: probability of a turn by 90, 180 or 270 degrees (180 unless height = width).
        jitter: the crop moves by up to so many pixels, up and down and to the sides, at full
            resolution; what it reaches beyond the image is mirrored.
        brightness: factors within 1 - brightness .. 1 + brightness.
        contrast: factors within 1 - contrast .. 1 + contrast.
        mixup: alpha of Beta(alpha, alpha), from which the share of the other image is drawn.
        cutmix: likewise, of the other image's area; with both, each image gets one of them.

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
        brightness: float = 0.0,
        contrast: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
    ) -> None:
        options = {key: value for key, value in locals().items() if key != "self"}
        for name, value in options.items():
            most = float("inf") if name in ("jitter", "mixup", "cutmix") else 1
            if not 0 <= value <= most:
                where = "data.flip" if name == "flip" else f"data.augment.{name}"
                raise ValueError(f"{where}={value}: give 0 to {most}")
        self.flip = flip
        self.vertical_flip = vertical_flip
        self.quarter_turns = quarter_turns
        self.jitter = jitter
        self.brightness = brightness
        self.contrast = contrast
        self.mixup = mixup
        self.cutmix = cutmix
        self.active = any(options.values())

    def extra_bytes(self, images: int, *, image_bytes: int) -> int:
        """The most that a call takes beside a batch of so many images: copies, as floats where it calculates."""
        changing = 9 if self.brightness or self.contrast else 2 if self.active else 0
        mixing = images + (16 if self.mixup else 0) if images > 1 and (self.mixup or self.cutmix) else 0
        return max(changing, mixing) * image_bytes

    def __call__(self, batch: Batch, *, seed: int, epoch: int, classes: int) -> Batch:
        """The batch, changed in place; its labels are shares of the classes when it was mixed."""
        if not self.active:
            return batch
        if not isinstance(batch.images, Tensor):
            rng = np.random.default_rng((seed, epoch, int(batch.index[0])))
            return batch._replace(images=self._turn(batch.images, rng))
        rngs = [np.random.default_rng((seed, epoch, i)) for i in batch.index.tolist()]
        for image, rng in zip(batch.images, rngs, strict=True):
            changed = self._change(image, rng)
            if changed is not image:
                image.copy_(changed)
        if self.mixup or self.cutmix:
            return self._mix(batch, rngs, classes)
        return batch

    def check_regions(self) -> None:
        """Raises ValueError for what can't be done to an image that is read by region."""
        for name in ("jitter", "brightness", "contrast", "mixup", "cutmix"):
            if value := getattr(self, name):
                raise ValueError(
                    f"data.augment.{name}={value} changes whole images, and with memory=stream data.resolution=native "
                    "reads large ones by region; leave it out (flips and quarter turns work)"
                )

    def _turn(self, image: Regions, rng: np.random.Generator) -> Turned:
        """What `_change` does to an image in memory, as far as `check_regions` lets it."""
        flip, vertical_flip, turn = rng.random(3)
        turns = rng.integers(1, 4)
        height, width, _ = image.shape
        quarters = 0 if turn >= self.quarter_turns else int(turns) if height == width else 2
        return Turned(image, flip=flip < self.flip, vertical_flip=vertical_flip < self.vertical_flip, quarters=quarters)

    def _change(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        """c h w -> c h w. All is drawn whatever is used, so that options don't shift one another."""
        flip, vertical_flip, turn = rng.random(3)
        turns = rng.integers(1, 4)
        shift = rng.integers(-self.jitter, self.jitter + 1, 2).tolist()
        brightness, contrast = 1 + rng.uniform(-1, 1, 2) * (self.brightness, self.contrast)
        if flip < self.flip:
            image = tv.horizontal_flip(image)
        if vertical_flip < self.vertical_flip:
            image = tv.vertical_flip(image)
        if turn < self.quarter_turns:
            square = image.shape[-2] == image.shape[-1]
            image = image.rot90(int(turns) if square else 2, (-2, -1))
        for dim, pixels in zip((-2, -1), shift, strict=True):
            if pixels:
                image = image.index_select(dim, mirrored(image.shape[dim], pixels, image.device))
        if self.brightness:
            image = tv.adjust_brightness(image, brightness)
        if self.contrast:
            image = tv.adjust_contrast(image, contrast)
        return image

    def _mix(self, batch: Batch, rngs: list[np.random.Generator], classes: int) -> Batch:
        # one_hot would look at the labels, and wait for the device.
        shares = (batch.labels[:, None] == torch.arange(classes, device=batch.labels.device)).float()
        if len(rngs) == 1:
            return batch._replace(labels=shares)
        others, other_shares = batch.images.roll(1, 0), shares.roll(1, 0)
        height, width = batch.images.shape[-2:]
        labels = shares.clone()
        for n, rng in enumerate(rngs):
            cut = bool(self.cutmix) and (not self.mixup or rng.random() < 0.5)
            alpha = self.cutmix if cut else self.mixup
            share = rng.beta(alpha, alpha)  # of the other image
            if cut:
                side = np.sqrt(share)
                (top, bottom), (left, right) = (
                    np.clip(rng.uniform(0, s) + np.array([-0.5, 0.5]) * side * s, 0, s).round().astype(int)
                    for s in (height, width)
                )
                batch.images[n, :, top:bottom, left:right] = others[n, :, top:bottom, left:right]
                share = (bottom - top) * (right - left) / (height * width)
            else:
                mixed = torch.lerp(batch.images[n].float(), others[n].float(), share)
                batch.images[n] = mixed.round().to(torch.uint8)
            labels[n] = torch.lerp(shares[n], other_shares[n], share)
        return batch._replace(labels=labels)


def mirrored(size: int, shift: int, device: torch.device | None = None) -> Tensor:
    """The indices 0..size-1 moved by `shift`, those beyond an end mirrored at it."""
    places = torch.arange(size, device=device) + shift
    period = max(1, 2 * (size - 1))
    places = places.abs() % period
    return torch.minimum(places, period - places)
