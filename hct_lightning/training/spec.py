"""What a network is and what it eats: the description by which a checkpoint can be used without its run."""

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from hydra.utils import instantiate

from hct_lightning.data.reading.decoding import MAX_PIXELS_BEFORE, Decoding
from hct_lightning.data.reading.geometry import NATIVE
from hct_lightning.models import FromPixels
from hct_lightning.training.hub import offline_without_internet

VERSION = 2  # of the description as checkpoints hold it
FETCHING = ("pretrained", "checkpoint_path")  # options of timm.create_model that say where weights come from


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """Rebuilds a network, and says what to feed it.

    Args:
        model: its configuration, plain, with `_target_`.
        classes: names, sorted: the order of the logits; none of a network that has not learned to classify.
        decoding: how a file becomes the pixels that it takes.
        mean: per channel, of pixels in 0..1.
        std: likewise, above 0.
        unsaid: fields of the decoding of which a checkpoint of version 1 said nothing; what they were is not known.
    """

    model: Mapping[str, Any]
    classes: tuple[str, ...]
    decoding: Decoding
    mean: tuple[float, ...]
    std: tuple[float, ...]
    unsaid: frozenset[str] = frozenset()

    def build(self, *, pretrained: bool = False) -> FromPixels:
        """The untrained network; with `pretrained` the one whose weights the model's options fetch, if they do.

        Raises:
            ValueError: when they can't be fetched.
        """
        return build_network(
            self.model,
            channels=self.decoding.channels,
            classes=len(self.classes),
            mean=self.mean,
            std=self.std,
            pretrained=pretrained,
        )

    def options(self) -> dict[str, Any]:
        """What it eats, in the words of the configuration group `data`.

        What is not done to its images (srgb, breast) is null: a store may have it done, which `check_decoding` sees.
        """
        decoding = {name: None if value is False else value for name, value in vars(self.decoding).items()}
        return {"resolution": decoding["size"] or NATIVE, "mean": self.mean, "std": self.std} | {
            name: value for name, value in decoding.items() if name not in ("size", "max_pixels")
        }

    def reading(self, given: dict[str, Any], resolution: int | Sequence[int] | None = None) -> Decoding:
        """How new images are read: as those of the training, with what is asked for on top.

        Args:
            given: options of the group `data` that the command line names.
            resolution: another one, where it is not None.

        Raises:
            ValueError: where another mean or deviation is asked for.
        """
        self.check_normalisation(given)
        return self.decoding.with_options(given | ({"resolution": resolution} if resolution else {}))

    def check_classes(self, found: Sequence[str]) -> None:
        """Raises ValueError when data has other classes than the network was trained on."""
        if tuple(found) != self.classes:
            raise ValueError(
                f"the data has the classes {', '.join(found)}, the checkpoint was trained on "
                f"{', '.join(self.classes)}; give the data it was made for"
            )

    def check_normalisation(self, given: Mapping[str, Any]) -> None:
        """Raises ValueError where options of the group `data` ask for another mean or deviation than the network's."""
        for name, mine in (("mean", self.mean), ("std", self.std)):
            if given.get(name) is not None and tuple(given[name]) != tuple(mine):
                raise ValueError(
                    f"data.{name}={list(given[name])}: the network was trained with {list(mine)}, and keeps it; leave it "
                    f"out, or begin a new run from the weights: ckpt=<file> data.{name}=..., without run="
                )

    def check_decoding(self, found: Decoding, *, chosen: Collection[str] = ()) -> None:
        """Raises ValueError when data is read otherwise than in training, in what nobody has chosen.

        Args:
            found: how the data is read; a store may only have it as it was prepared.
            chosen: options of the group `data` that the command line names.
        """
        here, trained = found.as_json(), self.decoding.as_json()
        for name in trained.keys() - {"version", "size", "max_pixels", *self.unsaid, *chosen}:
            if here[name] != trained[name]:
                option = f"data.{name}={json.dumps(here[name], separators=(',', ':'))}"
                raise ValueError(
                    f"the data is read with {option}, the checkpoint was trained with {json.dumps(trained[name])}; "
                    f"give other data, or say that it is meant: {option}"
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
            spec = cls(
                model=dict(saved["model"]),
                classes=tuple(saved["classes"]),
                decoding=_decoding_of_version_1(saved) if version == 1 else Decoding.from_json(saved["decoding"]),
                mean=tuple(saved["mean"]),
                std=tuple(saved["std"]),
                unsaid=frozenset({"srgb", "breast", "reduce_to"} if version == 1 else ()),
            )
            spec._check()
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"a damaged description: {error!r}") from error
        return spec

    def _check(self) -> None:
        """Raises ValueError for what no network can have been trained on."""
        if not all(isinstance(name, str) for name in self.classes):
            raise ValueError(f"classes are {self.classes!r:.100}, not names")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.decoding.channels or not all(isinstance(value, float | int) for value in values):
                raise ValueError(
                    f"{name} is {values!r:.100}, not a number for each of {self.decoding.channels} channels"
                )


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
    model: Mapping[str, Any],
    *,
    channels: int,
    classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    pretrained: bool = False,
) -> FromPixels:
    """The network that takes uint8 pixels, channels_last.

    Args:
        model: its configuration, with `_target_`.
        channels: of the images.
        classes: their number.
        mean: per channel, of pixels in 0..1.
        std: likewise.
        pretrained: whether options of the model that fetch weights count. Nothing else does that: who loads a
            checkpoint, or measures a step, has no use for them.

    Raises:
        ValueError: when they can't be fetched.
    """
    fetches = {name: value for name, value in model.items() if name in FETCHING and value}
    options = model if pretrained else {name: value for name, value in model.items() if name not in fetches}
    if ":" in str(model.get("model_name")):
        raise ValueError(
            f"model.model_name={model['model_name']}: a checkpoint has to say by itself what its network is; give the "
            "name under which timm knows it, and weights of your own as model.checkpoint_path=<file>"
        )
    if pretrained and fetches:
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # a line for each try
    try:
        with offline_without_internet() if pretrained and fetches else nullcontext():
            network = instantiate(options, in_chans=channels, num_classes=classes, _convert_="all")
    except Exception as error:
        if not (pretrained and fetches):
            raise
        why = (str(error.__cause__ or error) or type(error).__name__).strip().splitlines()[0].split(". ")[0]
        asked = " ".join(f"model.{name}={value}" for name, value in fetches.items())
        raise ValueError(
            f"{asked}: the weights of {model.get('model_name', model['_target_'])} can't be had ({why}); run it once "
            "where the internet is, which keeps them in ~/.cache/huggingface, or leave it out"
        ) from error
    return FromPixels(network, mean, std).to(memory_format=torch.channels_last)
