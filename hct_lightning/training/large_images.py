"""Images that do not fit the memory: which ones these are, and the tiles in which they go through HCT instead."""

import logging
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hct_lightning.data.reading.image import UnreadableImageError
from hct_lightning.data.reading.readers import Reader
from hct_lightning.machine.high_water import resident_bytes
from hct_lightning.models import HCT, FromPixels
from hct_lightning.models.hct import WIDTHS
from hct_lightning.models.streaming import StreamedHCT
from hct_lightning.models.tiles import Source
from hct_lightning.runs.console import Lines
from hct_lightning.training.inference_memory import PLENTY, SHARE, images_at_a_time, inference_bytes
from hct_lightning.training.kept_map import KeptMap
from hct_lightning.training.memory_plan import available_bytes

log = logging.getLogger(__name__)

SIDE = 1024  # px of the image that says what a pixel takes
LEAST = 2**26  # bytes
GAPS = 2  # an allocator's bytes over those of the tensors
TILE_BYTES = {4: 30, 2: 18}  # a pixel of a tile, by the bytes of a number: measured, its reading included
ANSWERING = 3  # maps: the one after the first stages, what the next block makes of it, and parts of both
SMALLEST_TILE, LARGEST_TILE = 256, 4096  # px; beyond, the margin is a small part


class Way(NamedTuple):
    """How images go through a network that only answers.

    batch: so many at a time.
    most_pixels: of one that goes through as a whole; larger ones are streamed.
    room: bytes for an image that is.
    """

    batch: int
    most_pixels: int
    room: int


def way_through(
    reader: Reader,
    device: torch.device,
    *,
    max_memory_gb: float | None,
    batch_size: int,
    micro_batches: int | str,
    ranks_here: int,
    build: Callable[[], FromPixels],
    precision: str,
) -> Way:
    """How a reader's images go through the network.

    Args:
        reader: of the images.
        device: that a rank computes on.
        max_memory_gb: 10^9 bytes for each rank, all in all: of its GPU, or of its process. None: half of what there is.
        batch_size: the most at a time.
        micro_batches: see `images_at_a_time`.
        ranks_here: ranks that share this machine's memory.
        build: gives the network.
        precision: Lightning's name.

    Raises:
        ValueError: when that is too little for anything.
    """
    height, width, channels = reader.shape
    at_a_time = partial(
        images_at_a_time,
        device,
        batch_size=batch_size,
        ranks_here=ranks_here,
        build=build,
        channels=channels,
        size=(height, width),
        precision=precision,
    )
    plenty = height * width * PLENTY < available_bytes(device, ranks_here)
    if max_memory_gb is None and not reader.varies and (plenty or not isinstance(build().network, HCT)):
        return Way(at_a_time(micro_batches=micro_batches), height * width, 0)
    one = GAPS * inference_bytes(build, channels=channels, size=(SIDE, SIDE), precision=precision)
    room = _room(device, max_memory_gb, ranks_here)  # afterwards: what was imported for that is part of the process
    most_pixels = int(room * SIDE**2 / one)
    if reader.varies or height * width > most_pixels:
        return Way(1, most_pixels, room)
    return Way(min(at_a_time(micro_batches=micro_batches), most_pixels // (height * width)), most_pixels, room)


def _room(device: torch.device, max_memory_gb: float | None, ranks_here: int) -> int:
    """Bytes that there are for an image."""
    if max_memory_gb is None:
        return int(SHARE * available_bytes(device, ranks_here))
    if not isinstance(max_memory_gb, int | float):
        raise ValueError(f"max_memory_gb={max_memory_gb}: give GB as a number, or null for what the machine has")
    room = int(max_memory_gb * 1e9) - (resident_bytes() if device.type == "cpu" else 0)
    if room < LEAST:
        raise ValueError(
            f"max_memory_gb={max_memory_gb:g} is too little: the program itself takes "
            f"{max_memory_gb - room / 1e9:.2f}, and an image some more"
        )
    return room


def check_background(background: int | None) -> None:
    """Raises ValueError for what no tiles can be told by."""
    if background is not None and not 0 <= background <= 255:
        raise ValueError(f"predict.background={background}: give 0 to 255, or null to compute all tiles")


class Tiling(NamedTuple):
    """How an image is divided.

    tile: height and width, px.
    workers: tiles at once.
    """

    tile: int
    workers: int


def tiling(
    network: FromPixels, source: Source, room: int, *, number_bytes: int, threads: int, maps: int = ANSWERING
) -> Tiling:
    """The largest tiles that fit, as many at once as there are threads.

    Args:
        network: HCT on pixels.
        source: the image.
        room: bytes.
        number_bytes: of a number in the network's precision.
        threads: of this process.
        maps: as large as the one after the first stages, that are held at once.

    Raises:
        ValueError: when not even a small tile fits.
    """
    assert isinstance(network.network, HCT)
    height, width, channels = source.shape
    reach = network.first_stages(lambda rows, columns: torch.empty(0), (height, width), LARGEST_TILE).reach
    first, last = reach.span(slice(0, 1))
    margin = last - first + reach.stride
    chans = WIDTHS[network.network.local_stages - 1]
    held = maps * number_bytes * chans * reach.length(height) * reach.length(width)
    strips = 2 * width * channels if getattr(source, "by_strips", False) else 0  # bytes for each row of a tile
    for workers in (threads, 1):
        pixel = workers * TILE_BYTES[number_bytes]
        # pixel * side^2 + strips * side = room - held
        left = max(0, room - held)
        side = (math.sqrt(strips**2 + 4 * pixel * left) - strips) / (2 * pixel)
        tile = min(LARGEST_TILE, int(side - margin) // reach.stride * reach.stride)
        if tile >= (SMALLEST_TILE if workers == 1 else 4 * SMALLEST_TILE):
            return Tiling(tile, workers)
    least = (SMALLEST_TILE + margin) * ((SMALLEST_TILE + margin) * TILE_BYTES[number_bytes] + strips) + held
    raise ValueError(
        f"an image of {height}x{width} takes about {least / 1e9:.1f} GB beside the program itself, however small its "
        f"tiles are; {room / 1e9:.1f} are there. Raise max_memory_gb, or use fewer trainer.devices on this machine"
    )


class StreamsInMemory:
    """Streams images within the memory there is, says so, shows how far it is, and keeps what tiles gave.

    Args:
        network: in evaluation.
        room: bytes.
        background: as `StreamedHCT` has it.
        keep: gives the map of an image by its name and tile; None keeps nothing.
        maps: as `tiling` has it.
        first: gives what computes the first stages, as `StreamedHCT` has it, for so many callers at once.
    """

    def __init__(
        self,
        network: FromPixels,
        room: int,
        *,
        background: int | None = None,
        keep: Callable[[str, int], KeptMap] | None = None,
        maps: int = ANSWERING,
        first: Callable[[int], Callable[[Tensor], Tensor]] | None = None,
    ) -> None:
        self.first = first
        self.network, self.room, self.background, self.keep, self.maps = network, room, background, keep, maps

    def __call__(self, source: Source) -> Tensor:
        streamed, name = self.fitted(source), name_of(source)
        kept = self.keep(name, streamed.tile) if self.keep and name else None
        try:
            logits = streamed(source, tiles_done(source), kept)
        except UnreadableImageError:
            if kept:
                kept.remove()
            raise
        if kept:
            kept.remove()
        return logits

    def fitted(self, source: Source) -> StreamedHCT:
        """The network in tiles that fit an image."""
        device = self.network.scale.device.type
        streamed = StreamedHCT(self.network, background=self.background)  # says what can't be
        dtype = self.network.precision(device)
        threads = torch.get_num_threads() if device == "cpu" else 2
        found = tiling(self.network, source, self.room, number_bytes=dtype.itemsize, threads=threads, maps=self.maps)
        streamed.tile, streamed.workers = found
        streamed.first = self.first(found.workers) if self.first else None
        height, width, _ = source.shape
        log.info(
            "%s: %dx%d pixels do not fit into %.1f GB as a whole; in tiles of %d, %d at a time",
            *(name_of(source) or "an image", width, height, self.room / 1e9, *found),
        )
        return streamed


def name_of(source: Source) -> str:
    """Its file; empty where it has none."""
    name: Any = getattr(source, "name", "")
    return name


def tiles_done(source: Source) -> Lines:
    """Says in the log how far an image is."""
    return Lines(f"  {name_of(source) or 'an image'}", "tiles")
