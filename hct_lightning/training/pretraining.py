"""The LightningModule that learns without labels: it fills hidden blocks of images. It computes and logs."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from hct_lightning.data.feeding.loader import Batch
from hct_lightning.models import FromPixels
from hct_lightning.models.masked import PATCH, Decoder, edges_of, errors, hide, levels_of, patches_of, with_patches
from hct_lightning.training.batch_norm import normalising_by_batch
from hct_lightning.training.learner import Learner

PIXELS = 128  # a side, with which a network is asked for its maps
SMALLEST = 256  # pixels of the longer side of an image that is alone: its last map has a position every 128


class MaskedImages(Learner):
    """Says the pixels and the edges of hidden blocks of uint8 images, b c h w, from the maps of all stages.

    What is validated are other images, whose hidden blocks depend on their position in the split alone.

    Args:
        network: HCT or one of timm's that gives maps of its stages, without a classifier.
        hidden: share of each image that is hidden.
        block: pixels a side of what is hidden.
        options: see `Learner`.

    Logs, beside what every learner does, `val/loss`: the mean square errors of pixels and of edges, added.

    Raises:
        ValueError: for a value out of range, and a network that does not give maps, or streams.
    """

    def __init__(self, network: FromPixels, *, hidden: float, block: int, **options: Any) -> None:
        super().__init__(network, **options)
        if not 0 < hidden < 1:
            raise ValueError(f"pretrain.hidden={hidden}: give a share between 0 and 1")
        if block < PATCH or block % PATCH:
            raise ValueError(f"pretrain.block={block}: give a multiple of {PATCH} pixels")
        if network.tile:
            raise ValueError("memory=stream is not for task=pretrain, which takes crops; leave it out")
        self.hidden = hidden
        self.block = block
        channels, mode = len(network.scale), network.training
        with torch.no_grad():
            levels = self._try(network.eval().network, torch.zeros(1, channels, PIXELS, PIXELS))
        network.train(mode)
        self.decoder = Decoder([level.shape[1] for level in levels], channels).to(memory_format=torch.channels_last)
        self.val_loss = MeanMetric()
        self.confusion = None  # there are no classes

    @staticmethod
    def _try(network: nn.Module, images: Tensor) -> list[Tensor]:
        try:
            return levels_of(network, images)
        except (AssertionError, AttributeError, RuntimeError) as error:  # of networks that take one size alone, say
            reason = " ".join(str(error).split())
            raise ValueError(f"{type(network).__name__} can't be pre-trained, HCT can: {reason:.300}") from error

    def takes(self, images: Tensor) -> bool:
        """Whether so many images, b c h w, of this size have blocks to hide, and positions that BatchNorm can normalise."""
        b, _, h, w = images.shape
        return min(h, w) >= 2 * self.block and (b > 1 or max(h, w) >= SMALLEST)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        b, _, h, w = batch.images.shape
        drawn = torch.rand(b, h // self.block, w // self.block, device=self.device)
        size = len(batch.index)
        return self.logged(self._errors(batch.images, drawn).sum(), images=size, crops=b // size)

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self.val_loss.update(0.0, weight=0.0)  # a rank may have no image

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        h, w = batch.images.shape[2:]
        # Hidden blocks change what BatchNorm sees, and its own statistics are of whole images. Each image is normalised
        # by itself, so that its error does not depend on those beside it.
        with normalising_by_batch(self, momentum=0.0):
            for image, i in zip(batch.images.split(1), batch.index.tolist(), strict=True):
                # What is negative pads an uneven last round over the ranks; of images of many sizes some are too small.
                if i >= 0 and self.takes(image):
                    drawn = torch.rand(1, h // self.block, w // self.block, generator=torch.Generator().manual_seed(i))
                    self.val_loss.update(self._errors(image, drawn.to(self.device)))

    def on_validation_epoch_end(self) -> None:
        self.log("val/loss", self.val_loss, prog_bar=True)

    def _errors(self, pixels: Tensor, drawn: Tensor) -> Tensor:
        """Of each image, b, with the blocks hidden that are drawn; pixels beyond the last whole block are left out."""
        if not self.takes(pixels):
            b, _, h, w = pixels.shape
            raise ValueError(
                f"task=pretrain: {b} image(s) of {w}x{h} pixels at a time are too small for blocks of {self.block} and for "
                "BatchNorm; give larger data.augment.crop_size and crops, data.batch_size, or data.resolution"
            )
        images = self._normalised(pixels, drawn)
        seen, hidden = hide(images, drawn, self.hidden)
        patches, edges = self._said(seen)
        return errors(patches, patches_of(images), hidden) + errors(edges, edges_of(images), hidden)

    def _normalised(self, pixels: Tensor, drawn: Tensor) -> Tensor:
        height, width = (side * self.block for side in drawn.shape[1:])
        return cast(FromPixels, self.network).normalise(pixels[:, :, :height, :width], torch.float32)

    def _said(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Of images with hidden blocks: patches and edges, fp32."""
        network = cast(FromPixels, self.network)
        levels = levels_of(network.network, seen.to(network.precision(self.device.type)))
        patches, edges = self.decoder(levels, (seen.shape[2] // PATCH, seen.shape[3] // PATCH))
        return patches.float(), edges.float()

    @torch.no_grad()
    def pictures(self, pixels: Tensor) -> Tensor:
        """Images as they are, with hidden blocks, and with what is said there: 3 b c h w uint8, on the CPU.

        Args:
            pixels: b c h w uint8. The blocks that are hidden are always the same.
        """
        b, _, h, w = pixels.shape
        drawn = torch.rand(b, h // self.block, w // self.block, generator=torch.Generator().manual_seed(0))
        images = self._normalised(pixels, drawn)
        seen, hidden = hide(images, drawn.to(self.device), self.hidden)
        with normalising_by_batch(self, momentum=0.0):
            patches, _ = self._said(seen)
        network = cast(FromPixels, self.network)
        shown = torch.stack([images, seen, with_patches(images, patches, hidden)])
        scale, offset = (values.float()[:, None, None] for values in (network.scale, network.offset))
        return ((shown - offset) / scale).round().clamp(0, 255).to("cpu", torch.uint8)
