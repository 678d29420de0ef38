"""Gradients to the first rank and weights back, point to point, as flat buffers: nothing is pickled, nobody waits.

Gloo's sends and receives block, so each connection has threads of its own. They hold no lock while they wait.
"""

import threading
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

NOTES = 4  # numbers that ranks say to one another beside gradients, of which the largest count
SILENT = (-(2**62),) * NOTES

_GRADIENT, _NOTES, _WEIGHTS, _NO_NEWS, _END = range(5)
_FIELDS = 3  # of a message, beside notes and members
_MOST_RANKS = 1024
_FOREVER = timedelta(days=365)  # of validation or a long step nobody is to be impatient
_ENDS_S = 10.0  # for the last messages


class Gradient(NamedTuple):
    """What a worker delivers.

    version: of the weights that it was computed with.
    values: flat, on the CPU; None: the gradient was dropped, and there are but notes.
    notes: of the worker.
    dropped: how many gradients it has begun since and not delivered.
    """

    version: int
    values: Tensor | None
    notes: tuple[int, ...]
    dropped: int


class Weights(NamedTuple):
    """What a worker begins its next gradient with.

    version: the number of updates.
    values: flat, on the CPU; None: the worker has this version.
    meets: whether all begin together.
    notes: where all meet, the largest of what all workers have noted.
    members: where all meet, the ranks that live.
    """

    version: int
    values: Tensor | None
    meets: bool = False
    notes: tuple[int, ...] = SILENT
    members: tuple[int, ...] = ()


class Mailbox:
    """The newest weights that have come for a worker.

    Attributes:
        received: how many have come.
    """

    def __init__(self) -> None:
        self.received = 0
        self._weights: Weights | None = None
        self._error: str | None = None
        self._changed = threading.Condition()

    def put(self, weights: Weights) -> None:
        with self._changed:
            if weights.values is None and self._weights:  # those that came before may not have been taken
                weights = weights._replace(values=self._weights.values)
            self._weights = weights
            self.received += 1
            self._changed.notify_all()

    def fail(self, reason: str) -> None:
        with self._changed:
            self._error = self._error or reason
            self._changed.notify_all()

    def wait(self, after: int, timeout_s: float | None = None) -> bool:
        """Whether more than `after` have come; waits for it.

        Raises:
            RuntimeError: when none will come any more.
        """
        with self._changed:
            self._changed.wait_for(lambda: self.received > after or self._error, timeout_s)
            if self._error:
                raise RuntimeError(self._error)
            return self.received > after

    def take(self) -> tuple[Weights, int]:
        """The newest, and how many have come with them."""
        with self._changed:
            assert self._weights
            return self._weights, self.received


def sent_as(dtype: torch.dtype) -> torch.dtype:
    """What numbers travel as: fp32, and fp64 those that are."""
    return torch.promote_types(dtype, torch.float32)


class Line:
    """Connections between the first rank and each of the others, apart from all process groups.

    Args:
        store: at which the ranks find each other; of this line alone.
        rank: of this process.
        world: number of ranks.
        size: of gradients and weights, numbers.
        dtype: of the weights.
    """

    def __init__(self, store: Any, rank: int, world: int, size: int, dtype: torch.dtype = torch.float32) -> None:
        self.size, self.dtype = size, sent_as(dtype)
        self._gloo: Any = dist.ProcessGroupGloo(store, rank, world, _FOREVER)

    def send(self, to: int, message: Gradient | Weights | None) -> None:
        """Returns when the other side receives it; None: there will be no more."""
        if message is None:
            kind, fields, values = _END, [], None
        elif isinstance(message, Gradient):
            kind, values = _NOTES if message.values is None else _GRADIENT, message.values
            fields = [message.version, message.dropped, *message.notes]
        else:
            kind, values = _NO_NEWS if message.values is None else _WEIGHTS, message.values
            fields = [message.version, message.meets, *message.notes, *message.members]
        header = torch.full((_FIELDS + NOTES + _MOST_RANKS,), -1, dtype=torch.int64)
        header[: 1 + len(fields)] = torch.tensor([kind, *map(int, fields)])
        self._gloo.send([header], to, 0).wait()
        if values is not None:
            self._gloo.send([values], to, 1).wait()

    def receive(self, source: int) -> Gradient | Weights | None:
        """Waits for a message; raises RuntimeError when the other side is gone."""
        header = torch.empty((_FIELDS + NOTES + _MOST_RANKS,), dtype=torch.int64)
        self._gloo.recv([header], source, 0).wait()
        kind, *fields = header.tolist()
        if kind == _END:
            return None
        values = None
        if kind in (_GRADIENT, _WEIGHTS):
            values = torch.empty(self.size, dtype=self.dtype)
            self._gloo.recv([values], source, 1).wait()
        if kind in (_GRADIENT, _NOTES):
            version, dropped, *notes = fields[: 2 + NOTES]
            return Gradient(version, values, tuple(notes), dropped)
        version, meets, *notes = fields[: 2 + NOTES]
        members = tuple(rank for rank in fields[2 + NOTES :] if rank >= 0)
        return Weights(version, values, bool(meets), tuple(notes), members)


def in_background(work: Callable[[], None], name: str) -> threading.Thread:
    """A thread that does not keep the process alive."""
    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    return thread


def wait_for(threads: Iterable[threading.Thread]) -> None:
    """Waits for their ends, `_ENDS_S` at most. Python aborts the process where it ends while one waits for a message."""
    until = time.monotonic() + _ENDS_S
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))


class Remote:
    """A worker's side of its line to the server."""

    def __init__(self, line: Line, mailbox: Mailbox) -> None:
        self.line = line
        self.mailbox = mailbox
        self._thread = in_background(self._receive, "weights")

    def deliver(self, gradient: Gradient) -> None:
        try:
            self.line.send(0, gradient)
        except RuntimeError as error:
            raise RuntimeError("the first rank is gone, which keeps the weights") from error

    def close(self) -> None:
        """Says that no more gradients come."""
        self.line.send(0, None)

    def wait(self) -> None:
        """Waits until no more weights come."""
        wait_for([self._thread])

    def _receive(self) -> None:
        try:
            while (weights := self.line.receive(0)) is not None:
                assert isinstance(weights, Weights)
                self.mailbox.put(weights)
        except RuntimeError:
            pass  # as after the last ones, of which nobody waits for more
        self.mailbox.fail("the first rank is gone, which keeps the weights")
