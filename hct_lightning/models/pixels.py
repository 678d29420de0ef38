"""From uint8 pixels to the floats a network takes."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn

from hct_lightning.models.hct import HCT, check_size
from hct_lightning.models.performer import PerformerAttention
from hct_lightning.models.recompute import count_batches_once, stem_in_strips
from hct_lightning.models.tiles import Source, Tiled, reach_of

TOKENS_AT_ONCE = 2**15  # of attention, in training tile by tile


class FromPixels(nn.Module):
    """Puts the normalisation of pixels in front of a network.

    b c h w uint8, or where it streams one image that is read by region -> whatever `network` gives for (pixels / 255 - mean) / std. Images stay uint8 until they are on
    the device; the statistics are buffers and travel with the weights.

    Args:
        network: takes normalised floats, b c h w.
        mean: per channel, of pixels scaled to 0..1.
        std: likewise.
    """

    scale: Tensor
    offset: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std):
            raise ValueError(f"mean has {len(mean)} channels, std has {len(std)}")
        if min(std) <= 0:
            raise ValueError(f"std={list(std)}: every channel's deviation must be above 0")
        self.network = network
        self.grad_checkpointing = False
        # Computes HCT's stem in fp32 on the CPU, of pixels, its `weight`, `scale` and `offset`; None: its own modules do.
        self.fast_stem: Callable[..., Tensor] | None = None
        self.tile: int | None = None
        self.tile_workers = 1
        # Normalising is one multiply-add on pixels of 0..255. Its factors are computed in double and rounded once.
        std64 = torch.tensor(std, dtype=torch.float64)
        scale = (1 / (255 * std64)).float()
        offset = (-torch.tensor(mean, dtype=torch.float64) / std64).float()
        self.register_buffer("scale", scale)
        self.register_buffer("offset", offset)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recomputes activations in the backward pass instead of keeping them; the results are the same.

        This applies to the stages of the network, by its own method of this name, and to HCT's stem.

        Raises:
            ValueError: when the network can't recompute its stages.
        """
        try:
            cast(HCT, self.network).set_grad_checkpointing(enable)  # the name that timm gives it too
        except (AttributeError, AssertionError) as error:  # which timm's networks raise
            raise ValueError(
                f"{type(self.network).__name__} can't recompute its stages in the backward pass (it "
                "has no set_grad_checkpointing, or refuses it); use memory=speed"
            ) from error
        count_batches_once(self.network)
        self.grad_checkpointing = enable

    def set_streaming(self, tile: int | None = 2048, workers: int = 1) -> None:
        """Trains HCT's stem and first stages tile by tile, so that no image needs to pass through them as a whole.

        The gradients are exact: BatchNorm of these stages keeps its running statistics, which are frozen, and their
        stochastic depth is off. What follows sees the whole map, attention in parts.

        Args:
            tile: height and width, in pixels, of what a tile stands for; None: the image as a whole again.
            workers: tiles that are computed at once.

        Raises:
            ValueError: when the network is no HCT.
        """
        if not isinstance(self.network, HCT):
            raise ValueError(f"{type(self.network).__name__} can't be streamed; HCT can. Use memory=low")
        self.tile, self.tile_workers = tile, workers
        for module in self.network.modules():
            if isinstance(module, PerformerAttention):
                module.tokens_at_once = TOKENS_AT_ONCE if tile else None
        self.train(self.training)

    def train(self, mode: bool = True) -> "FromPixels":
        super().train(mode)
        if self.tile:
            for stage in self._local_stages():
                stage.eval()
        return self

    def _local_stages(self) -> list[nn.Module]:
        hct = cast(HCT, self.network)
        return list(hct.stages)[: hct.local_stages]

    def synchronise_batch_norm(self) -> None:
        """Lets BatchNorm see the batches of all ranks, on GPUs.

        By timm, for Lightning would lose the activation that norms of timm's networks have. To be called before
        `set_grad_checkpointing`, which hooks on to the norms.
        """
        self.network = cast(nn.Module, convert_sync_batchnorm(self.network))

    def precision(self, device_type: str) -> torch.dtype:
        """The precision in which the network takes its input: autocast's, or that of the weights."""
        if torch.is_autocast_enabled(device_type):
            return torch.get_autocast_dtype(device_type)
        return self.scale.dtype

    def normalise(self, pixels: Tensor, dtype: torch.dtype) -> Tensor:
        """b c h w uint8 -> floats, channels_last."""
        # Scale and offset are repeated for a whole row of interleaved pixels. Broadcasting them over the channels,
        # which are the innermost dimension in channels_last, can't be vectorised and takes ten times as long.
        b, c, h, w = pixels.shape
        rows = pixels.permute(0, 2, 3, 1).reshape(b, h, w * c).to(dtype)
        scale, offset = self.scale.to(dtype).repeat(w), self.offset.to(dtype).repeat(w)
        return torch.addcmul(offset, rows, scale).view(b, h, w, c).permute(0, 3, 1, 2)

    def first_stages(
        self,
        read: Callable[[slice, slice], Tensor],
        size: tuple[int, int],
        tile: int,
        *,
        workers: int = 1,
        background: int | None = None,
        instead: Callable[[Tensor], Tensor] | None = None,
    ) -> Tiled:
        """HCT's stem and first stages for an image that is read tile by tile, in the caller's precision.

        Args:
            read: gives rows and columns of the image, 1 c h w uint8.
            size: height and width of the image.
            tile: height and width, in pixels, of what a tile stands for.
            workers: as `Tiled` has them, like `background`.
            instead: computes what the stem and these stages would, 1 c h w uint8 -> 1 c' h' w'.
        """
        stem, stages = cast(HCT, self.network).stem, self._local_stages()
        kind = self.scale.device.type
        precision = torch.autocast(kind, torch.get_autocast_dtype(kind), enabled=torch.is_autocast_enabled(kind))

        def run(pixels: Tensor) -> Tensor:
            with precision:  # that of the forward pass, in the backward pass too
                normalise = partial(self.normalise, dtype=self.precision(kind))
                x = stem_in_strips(pixels, stem.conv.weight, normalise)
                for stage in stages:
                    x = stage(x)
                return x

        reach = reach_of(stem, *stages)
        side = max(1, tile // reach.stride)
        return Tiled(instead or run, reach, read, size, (side, side), workers, background)

    def check_that_statistics_can_be_measured(self) -> None:
        """Raises ValueError where the first stages are streamed, and so in evaluation."""
        if self.tile:
            raise ValueError(
                "memory=stream takes the statistics of the first stages as they are, and they can't be measured tile by "
                "tile; give recipe=plain, or callbacks=plain alone"
            )

    def _streamed(self, pixels: Tensor | Source) -> Tensor:
        """b c h w uint8, or one image that is read by region -> the map after the first stages."""
        assert self.tile, "set_streaming was called"
        hct, device = cast(HCT, self.network), self.scale.device
        if any(module.training for stage in self._local_stages() for module in stage.modules()):
            self.check_that_statistics_can_be_measured()
        parameters = [p for part in (hct.stem, *self._local_stages()) for p in part.parameters() if p.requires_grad]
        if isinstance(pixels, Tensor):
            images = [(partial(_region, image), (image.shape[2], image.shape[3])) for image in pixels.split(1)]
        else:
            images = [(partial(read_region, pixels, device), pixels.shape[:2])]
        maps = []
        for read, size in images:
            check_size(*size)
            maps.append(self.first_stages(read, size, self.tile, workers=self.tile_workers).trained(parameters))
        return torch.cat(maps)

    def forward(self, pixels: Tensor | Source) -> Tensor:
        if self.tile:
            done = cast(HCT, self.network).local_stages
            return self.network(self._streamed(pixels), stem=nn.Identity(), stages_in_stem=done)
        if not isinstance(pixels, Tensor):
            raise ValueError("an image that is read by region takes memory=stream")
        precision = self.precision(pixels.device.type)
        normalise = partial(self.normalise, dtype=precision)
        instead = None
        if self.fast_stem and precision == torch.float32 and pixels.device.type == "cpu":
            instead = partial(self.fast_stem, scale=self.scale, offset=self.offset)
        elif self.grad_checkpointing:
            instead = partial(stem_in_strips, normalise=normalise)
        if instead and isinstance(self.network, HCT):
            return self.network(pixels, stem=partial(instead, weight=self.network.stem.conv.weight))
        return self.network(normalise(pixels))


def _region(image: Tensor, rows: slice, columns: slice) -> Tensor:
    return image[:, :, rows, columns]


def read_region(source: Source, device: torch.device, rows: slice, columns: slice) -> Tensor:
    """A region of an image, 1 c h w uint8, on the device."""
    region = torch.from_numpy(source.read(rows.start, rows.stop, columns.start, columns.stop))
    return region.permute(2, 0, 1)[None].to(device)
