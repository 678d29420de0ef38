"""The effective receptive field: which pixels one position of the last map depends on, and how much.

Luo et al., "Understanding the Effective Receptive Field in Deep Convolutional Neural Networks", NeurIPS 2016; HCT's
paper shows it for HCT beside a convolutional network. It is the gradient of the central position before pooling, summed
over its channels, with respect to the input; absolute, averaged over channels of the input and over images.

Legend: b batch, c channels, h height, w width.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from torch import Tensor

from hct_lightning.models import FromPixels

DRAWN = 256  # px a side
FAINTEST = 1e-4  # of the greatest, that is drawn apart from 0


def receptive_field(network: FromPixels, images: Iterable[Tensor]) -> Tensor:
    """Args:
        network: in evaluation, HCT or one of timm.
        images: 1 c h w uint8, of one size, on the network's device.

    Returns:
        h w fp32, on the CPU; its sum is 1.

    Raises:
        ValueError: when the network has no map before pooling, there are no images, or they differ in size.
    """
    features = getattr(network.network, "forward_features", None)
    total, count = None, 0
    for pixels in images:
        x = network.normalise(pixels, torch.float32).requires_grad_()
        found = features(x) if features else x
        if found is x or found.dim() != 4:
            raise ValueError(
                f"{type(network.network).__name__} gives no map before pooling (forward_features, b c h w); "
                "leave explain.receptive_field out"
            )
        centre = found[0, :, found.shape[2] // 2, found.shape[3] // 2].sum()
        (gradient,) = torch.autograd.grad(centre, x)
        one = gradient[0].abs().mean(dim=0).cpu()
        if total is not None and total.shape != one.shape:
            raise ValueError(
                "explain.receptive_field averages over images of one size; give explain.resolution=1024, say"
            )
        total, count = one if total is None else total + one, count + 1
    if total is None:
        raise ValueError("no image could be read, so there is no receptive field")
    return total / total.sum()


def half_side(field: Tensor, share: float) -> float:
    """How far the square around the centre reaches that holds `share` of a field, h w.

    As a share of the image's shorter side: 0.5 where it reaches the border.
    """
    h, w = field.shape
    rows = (torch.arange(h)[:, None] - (h - 1) / 2).abs()
    columns = (torch.arange(w)[None] - (w - 1) / 2).abs()
    distance = torch.maximum(rows, columns).flatten().numpy().astype(int)
    held = np.bincount(distance, field.flatten().double().numpy()).cumsum()
    return float(np.searchsorted(held, share * held[-1]) + 1) / min(h, w)


def draw(fields: Sequence[tuple[str, str, Tensor]]) -> Figure:
    """Networks side by side, their states below each other.

    Args:
        fields: of each the network, the state of its weights, and h w.
    """
    networks, states = (list(dict.fromkeys(field[i] for field in fields)) for i in (0, 1))
    figure = Figure(figsize=(4 * len(networks) + 1, 4 * len(states)), layout="constrained")
    axes = figure.subplots(len(states), len(networks), squeeze=False)
    for name, state, field in fields:
        small = F.adaptive_avg_pool2d(field[None], (min(DRAWN, field.shape[0]), min(DRAWN, field.shape[1])))[0]
        axis = axes[states.index(state), networks.index(name)]
        shown = axis.imshow(
            (small / small.max()).clamp(min=FAINTEST).numpy(), norm=LogNorm(FAINTEST, 1), cmap="inferno"
        )
        axis.set(title=f"{name}, {state}", xticks=[], yticks=[])
    figure.colorbar(shown, ax=axes, label="gradient of the central position, the greatest is 1", shrink=0.6)
    return figure
