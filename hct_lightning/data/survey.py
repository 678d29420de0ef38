"""Every image of a data set looked at once: what there is, and what is wrong with it."""

import hashlib
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hct_lightning.data.catalogue import Catalogue
from hct_lightning.data.reading.geometry import Size, resize
from hct_lightning.data.reading.image import UnreadableImageError, probe
from hct_lightning.data.reading.readers import Reader
from hct_lightning.data.reading.regions import is_read_by_region
from hct_lightning.data.shortcuts import REDUCED, Glimpse, accuracies
from hct_lightning.data.statistics import mean_and_deviation, value_counts


class Seen(NamedTuple):
    """An image that can be read: split, path, channels of the file, digest, and what it is without its detail."""

    split: str
    path: str
    channels: int
    sha256: str
    glimpse: Glimpse


class Survey(NamedTuple):
    """What was found.

    sizes: (height, width) of every readable image.
    channels: of the files, and how many have so many.
    unreadable: reasons, by path.
    duplicates: paths of the same content, where they stand in more than one split.
    repeated: how many files repeat the content of another of their split.
    mean, std: per channel, of the training images as the network sees them, pixels in 0..1.
    shortcuts: see `accuracies`.
    """

    sizes: list[Size]
    channels: dict[int, int]
    unreadable: dict[str, str]
    duplicates: list[list[str]]
    repeated: int
    mean: list[float]
    std: list[float]
    shortcuts: list[dict[str, Any]]


def survey(found: Catalogue, reader: Reader, *, max_pixels: int, workers: int, progress: Any) -> Survey:
    """Reads every image once, as the network will see it.

    Args:
        found: the images.
        reader: gives them.
        max_pixels: see `read_image`.
        workers: threads.
        progress: wraps the results, given their number, in a progress bar.
    """

    def look(job: tuple[str, int]) -> Seen | tuple[str, str]:
        name, i = job
        split = splits[name]
        path, length = split.paths[i], None
        try:
            if found.prepared:
                channels, (size, digest) = reader.shape[2], found.prepared.original(path)
            else:
                channels, height, width = probe(path, max_pixels=max_pixels)
                size = height, width
                with open(path, "rb") as file:
                    digest, length = hashlib.file_digest(file, "sha256").hexdigest(), file.tell()
            if not found.prepared and is_read_by_region(path):
                raise UnreadableImageError(f"{path}: it is read by region, and task=inspect looks at whole images")
            pixels = reader(path)
        except (UnreadableImageError, OSError) as error:
            return path, str(error)
        known = split.labels[i], size, length, Path(path).suffix.lower(), value_counts(pixels)
        reduced = resize(pixels, (REDUCED, REDUCED)).numpy()
        return Seen(name, path, channels, digest, Glimpse(*known, reduced, split.tags_of(i)))

    splits = found.splits
    jobs = [(name, i) for name, split in splits.items() for i in range(len(split))]
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
    train, valid = ([one.glimpse for one in seen if one.split == side] for side in ("train", "valid"))
    counts = [image.counts for image in train or [one.glimpse for one in seen]]
    mean, std = mean_and_deviation(np.sum(counts, axis=0))
    return Survey(
        sizes=sorted(one.glimpse.size for one in seen),
        channels=dict(channels),
        unreadable=unreadable,
        duplicates=[[one.path for one in group] for group in both],
        repeated=sum(len(g) - 1 for g in groups if len({one.split for one in g}) == 1),
        mean=mean,
        std=std,
        shortcuts=accuracies(train, valid),
    )
