"""What PyTorch's CUDA allocator takes of a card for the tensors that a program asks it for, simulated by its source.

It is more than the bytes of the tensors: blocks are rounded up, and a freed one leaves a gap that the next
tensor may not fit.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable

KIB, MIB = 2**10, 2**20
Event = tuple[int, int | None]  # a block's number and its bytes; None where it is freed


def most_held(events: Iterable[Event]) -> int:
    """The most bytes that the allocator holds at once while it serves the events."""
    allocator, most = CudaCaching(), 0
    for key, size in events:
        if size is None:
            allocator.free(key)
        else:
            allocator.take(key, size)
            most = max(most, allocator.held)
    return most


def pinned_bytes(size: int) -> int:
    """What PyTorch pins for a host buffer of `size` bytes: the next power of two."""
    return 1 << max(0, size - 1).bit_length()


class Gaps:
    """Free blocks of one address space; neighbours are joined."""

    def __init__(self) -> None:
        self._by_size: list[tuple[int, int]] = []  # (size, start), sorted
        self._sizes: dict[int, int] = {}  # by start
        self._starts: dict[int, int] = {}  # by end

    def add(self, start: int, size: int) -> tuple[int, int]:
        """Joins the block with its free neighbours; gives start and size of the whole."""
        if start in self._starts:
            before = self._starts[start]
            size += self.remove(before)
            start = before
        if start + size in self._sizes:
            size += self.remove(start + size)
        insort(self._by_size, (size, start))
        self._sizes[start] = size
        self._starts[start + size] = start
        return start, size

    def remove(self, start: int) -> int:
        """Takes a block out; gives its size."""
        size = self._sizes.pop(start)
        del self._starts[start + size]
        del self._by_size[bisect_left(self._by_size, (size, start))]
        return size

    def best(self, size: int) -> tuple[int, int] | None:
        """Start and size of the smallest block that is large enough, if there is one; takes it out."""
        place = bisect_left(self._by_size, (size, 0))
        if place == len(self._by_size):
            return None
        found, start = self._by_size[place]
        self.remove(start)
        return start, found


class CudaCaching:
    """PyTorch's allocator with its default settings, on one stream: segments of the card, cut into blocks.

    Segments that are wholly free go back at once, as they do where the card is full: it is what a card must have.

    Attributes:
        held: bytes taken of the card now.
    """

    BLOCK = 512
    SMALL = MIB  # up to here blocks come from small segments
    SMALL_SEGMENT, LARGE_SEGMENT = 2 * MIB, 20 * MIB
    OWN_SEGMENT = 10 * MIB  # from here on a segment is as large as its first block

    def __init__(self) -> None:
        self.held = 0
        self._pools = {True: Gaps(), False: Gaps()}  # small, large
        self._blocks: dict[int, tuple[bool, int, int]] = {}
        self._segments: dict[int, int] = {}  # size by start
        self._next = 0  # where the next segment starts; never next to another

    def take(self, key: int, size: int) -> None:
        size = max(self.BLOCK, _up(size, self.BLOCK))
        small = size <= self.SMALL
        start, there = self._pools[small].best(size) or self._segment(size, small)
        rest = there - size
        if rest >= self.BLOCK if small else rest > self.SMALL:
            self._pools[small].add(start + size, rest)
        else:
            size = there
        self._blocks[key] = small, start, size

    def _segment(self, size: int, small: bool) -> tuple[int, int]:
        whole = (
            self.SMALL_SEGMENT
            if small
            else self.LARGE_SEGMENT
            if size < self.OWN_SEGMENT
            else _up(size, self.SMALL_SEGMENT)
        )
        start = self._next
        self._next += whole + self.BLOCK
        self.held += whole
        self._segments[start] = whole
        return start, whole

    def free(self, key: int) -> None:
        small, start, size = self._blocks.pop(key)
        start, size = self._pools[small].add(start, size)
        if self._segments.get(start) == size:
            self._pools[small].remove(start)
            self.held -= self._segments.pop(start)


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
