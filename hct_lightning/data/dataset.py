"""What there is to train on: a source's images, how they are read, and what their pixels are like."""

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hct_lightning.data.catalogue import Catalogue, Split
from hct_lightning.data.feeding.images import Images
from hct_lightning.data.reading.decoding import Decoding, padding_note
from hct_lightning.data.reading.geometry import NATIVE, Size
from hct_lightning.data.reading.image import UnreadableImageError, probe
from hct_lightning.data.reading.readers import FileReader, NativeReader, Reader, check_own_size
from hct_lightning.data.reading.stored import window_for
from hct_lightning.data.statistics import channel_statistics

log = logging.getLogger(__name__)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
LOOKED_AT = {"train": 32, "valid": 8}  # images whose headers say channels and sizes
VALUES_LOOKED_AT = 4  # training images whose values say whether they take a window
MEASURED = 256  # training images whose pixels say mean and deviation


@dataclass(frozen=True)
class Dataset:
    """The images of a source as the network sees them.

    Args:
        catalogue: files and labels of both splits.
        decoding: what becomes of a file.
        reader: gives the image of a path, as `decoding` says.
        mean: per channel, of pixels in 0..1.
        std: likewise.
        source_sizes: (height, width) of the files that were looked at, sorted.
        notes: what a user should know of how they are read.
        fitting_window: one to give, where the files hold integers that the default does not fit.
        skips: whether unreadable files are left out instead of ending the run.
        skipped: the reasons of those, by path.
    """

    catalogue: Catalogue
    decoding: Decoding
    reader: Reader
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source_sizes: list[Size]
    notes: tuple[str, ...] = ()
    fitting_window: tuple[int, int] | None = None
    skips: bool = False
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.catalogue.classes

    def check_classes(self) -> None:
        """Raises ValueError where there are no two classes to tell apart."""
        if len(self.classes) < 2:
            raise ValueError(f"{self.catalogue.source} has one class, {''.join(self.classes)}; it takes two")

    @property
    def size(self) -> Size:
        """(height, width) of every image; of the largest where each has its own."""
        height, width, _ = self.reader.shape
        return height, width

    def images(self, split: Split, *, replace: bool = False) -> Images:
        """The images of a split; `replace` as of `Images`."""
        return Images(
            split.paths, split.labels, self.reader, skipped=self.skipped if self.skips else None, replace=replace
        )

    def read_as(self, decoding: Decoding) -> "Dataset":
        """The same files, read in another way.

        Raises:
            ValueError: when they lie prepared, and it can't be derived from that.
        """
        return replace(self, decoding=decoding, reader=reader_of(self.catalogue, decoding, self.source_sizes[-1]))

    def read_by_region(self, most_pixels: int) -> "Dataset":
        """The same, where images of their own sizes and more pixels are opened, to be read by region."""
        if not isinstance(self.reader, NativeReader):
            return self
        return replace(self, reader=self.reader.opening(most_pixels))

    def summary(self) -> dict[str, Any]:
        """What is known of the data, for the log and for run.json."""
        found = self.catalogue
        counts = {}
        for name, split in found.splits.items():
            seen = Counter(split.labels)
            counts[name] = {cls: seen[i] for i, cls in enumerate(found.classes)}
        return {
            "source": found.source,
            "counts": counts,
            "images": {name: len(split) for name, split in found.splits.items()},
            "source_size": {"smallest": self.source_sizes[0], "largest": self.source_sizes[-1]},
            "decoding": self.decoding.as_json(),
            "mean": self.mean,
            "std": self.std,
            "notes": found.notes + self.notes,
        }


def open_dataset(
    found: Catalogue,
    *,
    decoding: Mapping[str, Any],
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    statistics: str,
    skips: bool,
    workers: int,
) -> Dataset:
    """Looks at what a source gives.

    Args:
        found: the files.
        decoding: fields of `Decoding`; None is what the store was read with, and elsewhere for `channels` what
            most of the images looked at have; `size` and `geometry` are then to be given.
        mean: per channel; None: as `statistics` says.
        std: likewise.
        statistics: `imagenet` (their average for grey) or `data`, measured on training images. Those of many
            bands are always measured.
        skips: see `Dataset`.
        workers: threads that measure.

    Raises:
        ValueError: when the options do not fit the images, or there are too few.
        UnreadableImageError: for an unreadable file that ought not to be skipped.
    """
    if not len(found.train) or not len(found.valid):
        side = "training" if not len(found.train) else "validation"
        raise ValueError(f"{found.source} has no {side} images; add some, or split differently")
    skipped: dict[str, str] = {}
    notes, window = [], None
    if found.prepared:
        how = _as_prepared(found.prepared.decoding, decoding)
        sizes = [found.prepared.original(path).size for path in found.train.paths + found.valid.paths]
    else:
        if decoding["size"] is None or decoding["geometry"] is None:
            raise ValueError("data.resolution and data.geometry are null; only data=store knows them")
        shapes = _look(found, decoding, skipped if skips else None)
        channels = decoding["channels"] or _commonest([bands for bands, _, _ in shapes], notes)
        said = {name: value for name, value in decoding.items() if value is not None}
        how = Decoding(**{**said, "channels": channels})
        sizes = [(height, width) for _, height, width in shapes]
        if how.window is None and (fitting := window_for(found.train.at_most(VALUES_LOOKED_AT).paths, how.max_pixels)):
            window, note = fitting
            notes.append(note)
    if padded := padding_note(how, sizes):
        notes.append(padded)
    reader = reader_of(found, how, max(sizes, key=math.prod))
    if (mean is None or std is None) and (statistics == "data" or how.channels not in (1, 3)):
        log.info("measuring mean and deviation of the training images")
        sample = found.train.at_most(MEASURED)
        images = Images(sample.paths, sample.labels, reader, skipped=skipped if skips else None)
        measured = channel_statistics(images, workers)
    else:
        measured = _imagenet(IMAGENET_MEAN, how.channels), _imagenet(IMAGENET_STD, how.channels)
    mean, std = tuple(mean or measured[0]), tuple(std or measured[1])
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != how.channels:
            raise ValueError(f"data.{name} has {len(values)} values for {how.channels} channels")
    return Dataset(found, how, reader, mean, std, sorted(sizes), tuple(notes), window, skips, skipped)


def reader_of(found: Catalogue, decoding: Decoding, largest: Size) -> Reader:
    """What gives the images of a catalogue, the largest of which is known."""
    if found.prepared:
        return found.prepared.reader(decoding)
    return FileReader(decoding) if decoding.size else NativeReader(decoding, largest)


def _commonest(channels: list[int], notes: list[str]) -> int:
    """The number of channels that most images have, more where as many have more; others are noted."""
    counts = Counter(channels)
    chosen = max(counts, key=lambda bands: (counts[bands], bands))
    others = ", ".join(f"{count} have {bands}" for bands, count in sorted(counts.items()) if bands != chosen)
    if others:
        notes.append(
            f"{counts[chosen]} of the {len(channels)} images looked at have {chosen} channel(s), {others}; "
            "data.channels decides otherwise"
        )
    return chosen


def _look(found: Catalogue, decoding: Mapping[str, Any], skipped: dict[str, str] | None) -> list[tuple[int, int, int]]:
    """Channels, height and width of some images, of all where each keeps its size; the unreadable go to `skipped`."""
    shapes, native = [], decoding["size"] == NATIVE
    chosen = [
        getattr(found, name) if native else getattr(found, name).at_most(most) for name, most in LOOKED_AT.items()
    ]
    paths = [path for split in chosen for path in split.paths]
    for path in paths:
        try:
            shape = probe(path, max_pixels=decoding["max_pixels"])
            if native:
                check_own_size(path, shape[1:])
            shapes.append(shape)
        except UnreadableImageError as error:
            if skipped is None:
                raise
            skipped[path] = str(error)
    if not shapes:
        raise ValueError(
            f"{found.source}: none of the {len(paths)} images looked at can be read; the first: "
            f"{(skipped or {})[paths[0]]}"
        )
    return shapes


def _as_prepared(made: Decoding, asked: Mapping[str, Any]) -> Decoding:
    """What a store was read with, where nothing else is asked for; the limit on pixels is the store's own."""
    chosen = {name: value for name, value in asked.items() if value not in (None, NATIVE) and name != "max_pixels"}
    return Decoding(**vars(made) | chosen)


def _imagenet(values: Sequence[float], channels: int) -> list[float]:
    return list(values) if channels == 3 else [sum(values) / 3] * channels
