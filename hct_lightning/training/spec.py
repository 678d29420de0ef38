"""What a network is and what it eats: the description by which a checkpoint can be used without its run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hydra.utils import instantiate

from hct_lightning.data.reading.decoding import MAX_PIXELS_BEFORE, Decoding
from hct_lightning.models import FromPixels

VERSION = 2  # of the description as checkpoints hold it


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """Rebuilds a network, and says what to feed it.

    Args:
        model: its configuration, plain, with `_target_`.
        classes: names, sorted: the order of the logits.
        decoding: how a file becomes the pixels that it takes.
        mean: per channel, of pixels in 0..1.
        std: likewise, above 0.
    """

    model: Mapping[str, Any]
    classes: tuple[str, ...]
    decoding: Decoding
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def build(self) -> FromPixels:
        """The untrained network."""
        return build_network(
            self.model, channels=self.decoding.channels, classes=len(self.classes), mean=self.mean, std=self.std
        )

    def options(self) -> dict[str, Any]:
        """What it eats, in the words of the configuration group `data`."""
        decoding = vars(self.decoding)
        return {"resolution": decoding["size"], "mean": self.mean, "std": self.std} | {
            name: value for name, value in decoding.items() if name not in ("size", "max_pixels")
        }

    def check_classes(self, found: Sequence[str]) -> None:
        """Raises ValueError when data has other classes than the network was trained on."""
        if tuple(found) != self.classes:
            raise ValueError(
                f"the data has the classes {', '.join(found)}, the checkpoint was trained on "
                f"{', '.join(self.classes)}; give the data it was made for"
            )

    def as_json(self) -> dict[str, Any]:
        """Plain containers, with the version of their form."""
        return {
            "version": VERSION,
            "model": dict(self.model),
            "classes": list(self.classes),
            "decoding": self.decoding.as_json(),
            "mean": list(self.mean),
            "std": list(self.std),
        }

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> "NetworkSpec":
        """The description that `as_json` gave, of this version or the first, which had none.

        Raises:
            ValueError: when it is of another version or damaged.
        """
        try:
            version = saved.get("version", 1)
            if version not in (1, VERSION):
                raise ValueError(f"a description of version {version!r}; this program reads {VERSION}")
            return cls(
                model=dict(saved["model"]),
                classes=tuple(saved["classes"]),
                decoding=_decoding_of_version_1(saved) if version == 1 else Decoding.from_json(saved["decoding"]),
                mean=tuple(saved["mean"]),
                std=tuple(saved["std"]),
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"a damaged description: {error!r}") from error


def _decoding_of_version_1(saved: Mapping[str, Any]) -> Decoding:
    """There some of its parts stood beside the model, and the others nowhere."""
    return Decoding(
        channels=saved["channels"],
        size=tuple(saved["resolution"]),
        geometry=saved["geometry"],
        max_pixels=MAX_PIXELS_BEFORE,
        window=saved.get("window"),
    )


def build_network(
    model: Mapping[str, Any], *, channels: int, classes: int, mean: Sequence[float], std: Sequence[float]
) -> FromPixels:
    """The untrained network that takes uint8 pixels, channels_last.

    Args:
        model: its configuration, with `_target_`.
        channels: of the images.
        classes: their number.
        mean: per channel, of pixels in 0..1.
        std: likewise.
    """
    network = instantiate(model, in_chans=channels, num_classes=classes, _convert_="all")
    return FromPixels(network, mean, std).to(memory_format=torch.channels_last)
