"""HiResCAM: what each position of a feature map adds to the score of a class, to first order.

Draelos and Carin, "Use HiResCAM instead of Grad-CAM for faithful explanations", arXiv 2011.08891: the map times its
gradient, summed over the channels. Grad-CAM averages the gradient over all positions first, and so may show parts
that the network did not use. Captum computes it.

Legend: b batch (1 here), c channels, h height, w width.
"""

import torch
from torch import Tensor, nn

from hct_lightning.explain.maps import Map
from hct_lightning.models import FromPixels

UNIT = "of the score"
COARSEST = 32  # pixels a position, of the map that is looked at by default


def gradient_map(network: FromPixels, pixels: Tensor, target: int, *, layer: str) -> Map:
    """Args:
        network: in evaluation.
        pixels: 1 c h w uint8.
        target: the class.
        layer: name of a module in `network.network` that gives a map, b c h w.

    Raises:
        ModuleNotFoundError: without Captum.
        ValueError: when the layer gives no map.
    """
    from captum.attr import LayerGradientXActivation  # an extra

    # Of pixels there are no gradients, for they are integers: the network's input are floats.
    x = network.normalise(pixels, torch.float32)
    method = LayerGradientXActivation(network.network, network.network.get_submodule(layer))
    found = method.attribute(x, target=target)
    if not isinstance(found, Tensor) or found.dim() != 4:
        raise ValueError(f"explain.layer={layer}: it gives no map of b c h w; name another of the network's modules")
    return Map(found[0].sum(dim=0).detach().float().cpu(), UNIT)


def default_layer(network: nn.Module) -> str:
    """The last stage that has a position for every 32 pixels or more; HCT and the networks of timm say which that is.

    HCT's is the one before attention: what comes after it is coarser, and mixes all positions.

    Raises:
        ValueError: for a network that does not say it.
    """
    stages = getattr(network, "feature_info", None) or []
    fine = [stage for stage in stages if stage["reduction"] <= COARSEST]
    if not fine:
        raise ValueError(
            f"{type(network).__name__} does not say which modules give maps (feature_info); name one: explain.layer=<module>"
        )
    return fine[-1]["module"]


def check_layer(network: nn.Module, layer: str) -> None:
    """Raises ValueError where the network has no module of that name."""
    if layer not in (names := [name for name, _ in network.named_modules() if name]):
        outer = ", ".join(name for name in names if name.count(".") < 2)
        raise ValueError(f"explain.layer={layer}: the network has no such module; choose one, of {outer:.300}")
