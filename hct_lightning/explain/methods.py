"""The methods that are asked for, on images in memory and on those that are read by region."""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hct_lightning.explain.attention import attention_map, has_attention
from hct_lightning.explain.gradient import check_layer, default_layer, gradient_map
from hct_lightning.explain.maps import Map
from hct_lightning.explain.occlusion import occlusion_map
from hct_lightning.explain.streamed import StreamedMaps
from hct_lightning.models import FromPixels
from hct_lightning.models.tiles import Source
from hct_lightning.runs.console import track

log = logging.getLogger(__name__)

METHODS = ("gradient", "attention", "occlusion")
Stream = Callable[[FromPixels, Source], StreamedMaps]


class Look(NamedTuple):
    """What a network says of an image.

    logits: classes.
    maps: gives the map for a class, by method.
    """

    logits: Tensor
    maps: dict[str, Callable[[int], Map]]


class Methods:
    """Methods of one network, with their options.

    Args:
        network: HCT or one of timm.
        options: those of `task=explain`.
        mean: per channel, of pixels in 0..1: the grey of occlusion.
        title: names the network.

    Attributes:
        names: of the methods, in the order that was asked for.

    Raises:
        ValueError: for an unknown one, or when nothing is left to do.
    """

    def __init__(self, network: FromPixels, options: Mapping[str, Any], mean: Sequence[float], title: str) -> None:
        asked = [options["method"]] if isinstance(options["method"], str) else options["method"]
        if unknown := [name for name in asked if name not in METHODS]:
            raise ValueError(f"explain.method={','.join(unknown)}: choose of {', '.join(METHODS)}")
        if "attention" in asked and not has_attention(network):
            asked = [name for name in asked if name != "attention"]
            log.info("%s has no linear attention: the method `attention` is left out", title)
        if not asked and not options["receptive_field"]:
            raise ValueError(
                f"explain.method={options['method']} leaves nothing to do with {title}; "
                "give explain.method=[gradient,occlusion] or explain.receptive_field=true"
            )
        for name in ("tile", "batch_size"):
            if (value := options[name]) is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"explain.{name}={value}: give a positive number")
        self.names = tuple(dict.fromkeys(asked))
        self._layer = ""
        if "gradient" in asked:
            self._layer = options["layer"] or default_layer(network.network)
            check_layer(network.network, self._layer)
        self._occlusion = partial(
            occlusion_map,
            grey=(255 * torch.tensor(mean)).round().byte().to(network.scale.device),
            tile=options["tile"],
            batch=options["batch_size"] or 1,
            track=partial(track, "occluding"),
        )

    def look(self, network: FromPixels, image: Tensor | Source, stream: Stream) -> Look:
        """What a network, this one or the same with other weights, says of an image.

        Args:
            network: in evaluation.
            image: 1 c h w uint8, or read by region.
            stream: takes one that is read by region through the network.

        Raises:
            ValueError: where no method is left for an image that is read by region.
        """
        if isinstance(image, Tensor):
            with torch.inference_mode():
                logits = network(image)[0]
            maps = {
                "gradient": partial(gradient_map, network, image, layer=self._layer),
                "attention": partial(attention_map, network, image),
                "occlusion": partial(self._occlusion, network, image),
            }
            return Look(logits, {name: maps[name] for name in self.names})
        names = [name for name in self.names if name != "occlusion"]
        if not names:
            raise ValueError(
                "explain.method=occlusion would stream the image once for each of its tiles; give "
                "explain.method=[gradient,attention], or a smaller explain.resolution"
            )
        streamed = stream(network, image)
        maps = {"gradient": partial(streamed.gradient, layer=self._layer), "attention": streamed.attention}
        return Look(streamed.logits, {name: maps[name] for name in names})
