"""HCT, the High-resolution Convolutional Transformer.

Taha et al., "Deep is a Luxury We Don't Have", MICCAI 2022, arXiv 2208.06066. An independent
implementation from the paper. Convolution stages shrink the image; attention-convolution (AC)
stages then let every position see the whole image, at a cost linear in the number of positions.

Legend: b batch, c channels, h height, w width; stage s works at stride 8 * 2^s and 16 * 2^s channels.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.layers import DropPath
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hct_lightning.models.performer import Kernel, PerformerAttention
from hct_lightning.models.recompute import count_batches_once

WIDTHS = (16, 32, 64, 128, 256)
SMALLEST = 128  # pixels a side that the network takes
# Of the convolution stages, those that an image passes through at once where it goes tile by tile (tiles.py).
# A fourth would triple the margin that a tile needs.
MOST_LOCAL_STAGES = 3


def check_size(height: int, width: int) -> None:
    """Raises ValueError for an image that HCT can't take."""
    if min(height, width) < SMALLEST:
        raise ValueError(f"an image of {height}x{width} is too small: HCT needs {SMALLEST}")


def conv3x3(in_chans: int, out_chans: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_chans, out_chans, 3, stride=stride, padding=1, bias=False)


def as_tokens(x: Tensor) -> Tensor:
    """b c h w -> b (h w) c; a view in channels_last."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


class ConvBlock(nn.Module):
    """Pre-activation residual block (ResNet v2): twice BN, ReLU, 3x3 convolution.

    b c h w -> b out_chans (h / stride) (w / stride). With `project` the shortcut is a strided 1x1
    convolution of the activated input, else the input itself.
    """

    def __init__(self, in_chans: int, out_chans: int, *, stride: int, project: bool, drop_path: float) -> None:
        super().__init__()
        # Exporters put folded and quantized layers in place of these five.
        self.bn1: nn.Module = nn.BatchNorm2d(in_chans)
        self.act1: nn.Module = nn.ReLU()
        self.conv1: nn.Module = conv3x3(in_chans, out_chans, stride)
        self.bn2: nn.Module = nn.BatchNorm2d(out_chans)
        self.act2: nn.Module = nn.ReLU()
        self.conv2 = conv3x3(out_chans, out_chans)
        self.shortcut = nn.Conv2d(in_chans, out_chans, 1, stride=stride, bias=False) if project else None
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(y)
        y = self.conv2(self.act2(self.bn2(self.conv1(y))))
        return shortcut + self.drop_path(y)


class AttentionConvBlock(nn.Module):
    """AC block: BN, ReLU, attention over all positions plus the raw input; BN, ReLU, 3x3 convolution.

    Shapes and shortcut as in `ConvBlock`.
    """

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        *,
        stride: int,
        project: bool,
        drop_path: float,
        kernel: Kernel,
        drop_rate: float,
    ) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_chans)
        self.act1 = nn.ReLU()
        self.attn = PerformerAttention(in_chans, kernel=kernel, drop_rate=drop_rate)
        self.bn2 = nn.BatchNorm2d(in_chans)
        self.act2 = nn.ReLU()
        self.conv = conv3x3(in_chans, out_chans, stride)
        self.shortcut = nn.Conv2d(in_chans, out_chans, 1, stride=stride, bias=False) if project else None
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor, sums: Tensor | None = None) -> Tensor:
        """`sums`: the attention's over all positions of a map, where `x` is only a part of it."""
        y = self.act1(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(y)
        tokens = as_tokens(y)
        y = self.attn(tokens) if sums is None else self.attn.read(tokens, sums)
        y = y.unflatten(1, x.shape[-2:]).permute(0, 3, 1, 2)  # b (h w) c -> b c h w
        y = self.conv(self.act2(self.bn2(y + x)))
        return shortcut + self.drop_path(y)


class Stem(nn.Module):
    """7x7 convolution with stride 2 and 3x3 max-pool with stride 2: b c h w -> b 16 ~h/4 ~w/4."""

    def __init__(self, in_chans: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_chans, WIDTHS[0], 7, stride=2, padding=3, bias=False)
        self.pool: nn.Module = nn.MaxPool2d(3, stride=2)  # exporters put an activation before it

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.conv(x))


class HCT(nn.Module):
    """The whole network: b in_chans h w, normalised floats -> b num_classes logits.

    Any height and width from 128 pixels. 1,739,092 parameters for 3 channels and 4 classes.

    Args:
        in_chans: channels of the image.
        num_classes: number of logits; 0 gives pooled features, b 256.
        conv_stages: how many of the five stages are convolutional, 2 to 5; the rest are AC stages.
            5 is the paper's pure-CNN twin.
        blocks: blocks per stage.
        first_stride: stride of the first stage, 1 or 2.
        kernel: of the attention, `relu` or `softmax`.
        drop_rate: dropout on the attention's output.
        drop_path_rate: stochastic depth, growing linearly to this rate at the last block.
        global_pool: `avg`, or "" to leave the map unpooled in `forward_head`.

    Raises:
        ValueError: for an option out of its range.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 4,
        conv_stages: int = 3,
        blocks: Sequence[int] = (2, 2, 2, 2, 2),
        first_stride: int = 2,
        kernel: Kernel = "relu",
        drop_rate: float = 0.1,
        drop_path_rate: float = 0.0,
        global_pool: str = "avg",
    ) -> None:
        super().__init__()
        if not 2 <= conv_stages <= 5:
            raise ValueError(f"conv_stages={conv_stages}: HCT has 2 to 5 convolution stages")
        if len(blocks) != len(WIDTHS) or min(blocks) < 1:
            raise ValueError(f"blocks={tuple(blocks)}: give five counts of at least 1")
        if first_stride not in (1, 2):
            raise ValueError(f"first_stride={first_stride}: choose 1 or 2")
        if not 0 <= drop_path_rate < 1:
            raise ValueError(f"drop_path_rate={drop_path_rate}: give 0 to less than 1")
        self.local_stages = min(conv_stages, MOST_LOCAL_STAGES)
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = WIDTHS[-1]
        self.global_pool = global_pool
        self.grad_checkpointing = False
        self.feature_info = []

        self.stem = Stem(in_chans)
        drop_paths = torch.linspace(0, drop_path_rate, sum(blocks), device="cpu").split(list(blocks))
        stages = []
        chans, reduction = WIDTHS[0], 4
        for s, (width, rates) in enumerate(zip(WIDTHS, drop_paths, strict=True)):
            stride = first_stride if s == 0 else 2
            stage = []
            for i, rate in enumerate(rates.tolist()):
                options = {"stride": stride if i == 0 else 1, "project": i == 0, "drop_path": rate}
                if s < conv_stages:
                    stage.append(ConvBlock(chans, width, **options))
                else:
                    attention = {"kernel": kernel, "drop_rate": drop_rate}
                    stage.append(AttentionConvBlock(chans, width, **options, **attention))
                chans = width
            stages.append(nn.Sequential(*stage))
            reduction *= stride
            self.feature_info.append({"num_chs": width, "reduction": reduction, "module": f"stages.{s}"})
        self.stages = nn.Sequential(*stages)
        self.norm = nn.BatchNorm2d(chans)
        self.act = nn.ReLU()
        self.head = nn.Linear(chans, num_classes) if num_classes else nn.Identity()

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward_features(
        self, x: Tensor, stem: Callable[[Tensor], Tensor] | None = None, stages_in_stem: int = 0
    ) -> Tensor:
        """b in_chans h w -> b 256 h/128 w/128, normalised and activated.

        `stem` replaces the network's own stem, and its first stages where `stages_in_stem` says so: by one that
        takes uint8 pixels, say, or the map that these have given.
        """
        if not torch.jit.is_tracing() and not stages_in_stem:
            check_size(x.shape[-2], x.shape[-1])
        x = (stem or self.stem)(x)
        for stage in list(self.stages)[stages_in_stem:]:  # a slice is another module: exports would lose names
            if self.grad_checkpointing and torch.is_grad_enabled():
                x = checkpoint(stage, x, use_reentrant=False)
            else:
                x = stage(x)
        return self.act(self.norm(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """b 256 h w -> b num_classes."""
        if self.global_pool:
            x = x.mean(dim=(2, 3))
        return x if pre_logits or not self.num_classes else self.head(x)

    def forward(self, x: Tensor, stem: Callable[[Tensor], Tensor] | None = None, stages_in_stem: int = 0) -> Tensor:
        return self.forward_head(self.forward_features(x, stem, stages_in_stem))

    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the classifier by a new one for `num_classes` (timm's convention)."""
        self.num_classes = num_classes
        if global_pool is not None:
            self.global_pool = global_pool
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recomputes each stage in the backward pass instead of keeping what its blocks made."""
        self.grad_checkpointing = enable
        count_batches_once(self)

    def group_matcher(self, coarse: bool = False) -> dict[str, object]:
        return {
            "stem": r"^stem",
            "blocks": r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)",
        }


# What timm has to know to change the classifier or the channels of the input of weights that it loads.
default_cfgs = generate_default_cfgs(
    {"hct": {"input_size": (3, 1024, 1024), "crop_pct": 1.0, "first_conv": "stem.conv", "classifier": "head"}}
)


@register_model
def hct(pretrained: bool = False, **kwargs: Any) -> HCT:
    """`timm.create_model("hct", ...)`. No pretrained weights are published."""
    return build_model_with_cfg(
        HCT,
        "hct",
        pretrained,
        feature_cfg={"out_indices": (0, 1, 2, 3, 4), "flatten_sequential": True},
        **kwargs,
    )
