"""Every image of a data set looked at once: what there is, and what is wrong with it."""

import hashlib
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from hct_lightning.data.catalogue import Catalogue
from hct_lightning.data.reading.geometry import Size
from hct_lightning.data.reading.image import UnreadableImageError, probe
from hct_lightning.data.reading.readers import Reader
from hct_lightning.data.statistics import mean_and_deviation, value_counts


class Seen(NamedTuple):
    """An image that can be read: split, path, size, channels of the file, digest, and its values' counts."""

    split: str
    path: str
    size: Size
    channels: int
    sha256: str
    counts: np.ndarray


class Survey(NamedTuple):
    """What was found.

    sizes: (height, width) of every readable image.
    channels: of the files, and how many have so many.
    unreadable: reasons, by path.
    duplicates: paths of the same content, where they stand in more than one split.
    repeated: how many files repeat the content of another of their split.
    mean, std: per channel, of the training images as the network sees them, pixels in 0..1.
    """

    sizes: list[Size]
    channels: dict[int, int]
    unreadable: dict[str, str]
    duplicates: list[list[str]]
    repeated: int
    mean: list[float]
    std: list[float]


def survey(found: Catalogue, reader: Reader, *, max_pixels: int, workers: int, progress: Any) -> Survey:
    """Reads every image once, as the network will see it.

    Args:
        found: the images.
        reader: gives them.
        max_pixels: see `read_image`.
        workers: threads.
        progress: wraps the results, given their number, in a progress bar.
    """

    def look(job: tuple[str, str]) -> Seen | tuple[str, str]:
        split, path = job
        try:
            if found.prepared:
                channels, (size, digest) = reader.shape[2], found.prepared.original(path)
            else:
                channels, height, width = probe(path, max_pixels=max_pixels)
                size = height, width
                with open(path, "rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
            counts = value_counts(reader(path))
        except (UnreadableImageError, OSError) as error:
            return path, str(error)
        return Seen(split, path, size, channels, digest, counts)

    jobs = [(name, path) for name, split in found.splits.items() for path in split.paths]
    with ThreadPoolExecutor(max(1, workers)) as pool:
        looked = list(progress(pool.map(look, jobs), len(jobs)))
    seen = [one for one in looked if isinstance(one, Seen)]
    unreadable = dict(one for one in looked if not isinstance(one, Seen))
    if not seen:
        raise ValueError(f"{found.source}: none of the {len(jobs)} images can be read: {looked[0][1]}")
    same = defaultdict(list)
    channels = defaultdict(int)
    for one in seen:
        same[one.sha256].append(one)
        channels[one.channels] += 1
    groups = [group for group in same.values() if len(group) > 1]
    both = [g for g in groups if len({one.split for one in g}) > 1]
    training = [one.counts for one in seen if one.split == "train"] or [one.counts for one in seen]
    mean, std = mean_and_deviation(np.sum(training, axis=0))
    return Survey(
        sizes=sorted(one.size for one in seen),
        channels=dict(channels),
        unreadable=unreadable,
        duplicates=[[one.path for one in group] for group in both],
        repeated=sum(len(g) - 1 for g in groups if len({one.split for one in g}) == 1),
        mean=mean,
        std=std,
    )
