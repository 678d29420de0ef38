"""The parameter server: keeps weights and optimiser, and applies the first gradients that arrive.

It lives in the first rank, beside that rank's own worker. Each other rank has two threads here: one receives its
gradients, one sends it weights. Whichever thread brings the gradient that completes an update also applies it.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from hct_lightning.parallel.courier import SILENT, Gradient, Line, Mailbox, Weights, in_background, sent_as, wait_for
from hct_lightning.parallel.schemes import Arrivals, Scheme

log = logging.getLogger(__name__)


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """All values in one buffer of its own on the CPU, of `sent_as` their dtype."""
    return torch.cat([tensor.detach().reshape(-1).to(sent_as(tensor.dtype)) for tensor in tensors]).cpu()


def unflat(values: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Views of a flat buffer, shaped as those tensors are."""
    parts = values.split([tensor.numel() for tensor in like])
    return [part.view(tensor.shape) for part, tensor in zip(parts, like, strict=True)]


class Tally(NamedTuple):
    """What happened since the last tally.

    update_s: seconds per update of the weights.
    staleness: of the gradients that counted, updates, on average.
    dropped: share of the gradients that were begun and did not count.
    ranks: that live.
    """

    update_s: float
    staleness: float
    dropped: float
    ranks: int


class Server:
    """Weights in versions, and whose gradients make the next one.

    Args:
        scheme: the rule.
        ranks: number of workers; 0 is the one of this process.
        optimizer: of the weights that are kept here, and of them alone.
        rates: gives the learning rate of each parameter group by the version.
        clip: bounds the gradients of parameters.
        version: of the weights at the beginning.
        meets: see `Arrivals`.
    """

    def __init__(
        self,
        scheme: Scheme,
        ranks: int,
        optimizer: Optimizer,
        *,
        rates: Callable[[int], Sequence[float]],
        clip: Callable[[list[Tensor]], object],
        version: int,
        meets: Callable[[int], bool],
    ) -> None:
        self.optimizer = optimizer
        self.parameters: list[Tensor] = [p for group in optimizer.param_groups for p in group["params"]]
        self.rates = rates
        self.clip = clip
        self.mailbox = Mailbox()
        self._meets = meets
        self._arrivals = Arrivals(scheme, range(ranks), version=version, meets=self._all_meet)
        self._pending: list[tuple[int, Tensor]] = []
        self._notes = SILENT
        self._newest = Weights(version, None)
        self._due: dict[int, Weights] = {}  # by worker, what is to be sent
        self._threads: list[threading.Thread] = []
        self._closed = False
        self._changed = threading.Condition()
        self._since = self._last = time.monotonic()
        self._updates = self._counted = self._stale = self._dropped = 0

    @property
    def alive(self) -> tuple[int, ...]:
        return self._arrivals.workers

    def connect(self, line: Line) -> None:
        """Serves the other ranks from now on."""
        for rank in self.alive[1:]:
            self._threads += [
                in_background(lambda rank=rank: self._receive(line, rank), f"gradients of rank {rank}"),
                in_background(lambda rank=rank: self._send(line, rank), f"weights for rank {rank}"),
            ]

    def deliver(self, gradient: Gradient, rank: int = 0) -> None:
        """Takes a gradient; what follows is in the mailbox soon."""
        with self._changed:
            self._notes = tuple(map(max, self._notes, gradient.notes))
            self._dropped += gradient.dropped
            if gradient.values is None:
                return
            newest = self._arrivals.version
            arrival = self._arrivals.arrives(rank, gradient.version)
            if arrival.counts:
                self._pending.append((rank, gradient.values))
                self._counted += 1
                self._stale += newest - gradient.version
            else:
                self._dropped += 1
            if arrival.updates:
                self._update(newest)
                self._newest = self._weights()
                self._begin(arrival.begin, self._newest)
            else:  # the worker may have these already
                self._begin(arrival.begin, Weights(newest, None if gradient.version == newest else self._newest.values))

    def _update(self, version: int) -> None:
        """Applies the mean of the pending gradients, added in the order of the ranks."""
        self._pending.sort(key=lambda pair: pair[0])
        mean = self._pending[0][1].clone()
        for _, values in self._pending[1:]:
            mean += values
        mean /= len(self._pending)
        self._pending = []
        for parameter, gradient in zip(self.parameters, unflat(mean, self.parameters), strict=True):
            parameter.grad = gradient.to(parameter.device, parameter.dtype)
        self.clip(self.parameters)
        for group, rate in zip(self.optimizer.param_groups, self.rates(version), strict=True):
            group["lr"] = rate
        self.optimizer.step()
        self._updates += 1
        self._last = time.monotonic()

    def _all_meet(self, version: int) -> bool:
        """Where it was asked for, and where somebody has something to say."""
        return self._meets(version) or self._notes != SILENT

    def _weights(self) -> Weights:
        """Those after an update; where all meet, the notes are handed out."""
        version = self._arrivals.version
        meets = self._all_meet(version)
        notes, self._notes = (self._notes, SILENT) if meets else (SILENT, self._notes)
        return Weights(version, flat(self.parameters), meets, notes, self.alive if meets else ())

    def _begin(self, ranks: Sequence[int], weights: Weights) -> None:
        for rank in set(ranks) & set(self.alive):
            if rank == 0:
                self.mailbox.put(weights)
                continue
            before = self._due.get(rank)  # what has not left yet is replaced
            late = before.values if before and weights.values is None else weights.values
            self._due[rank] = weights._replace(values=late)
        self._changed.notify_all()

    def _receive(self, line: Line, rank: int) -> None:
        while True:
            try:
                gradient = line.receive(rank)
            except RuntimeError:
                self._lose(rank)
                return
            if gradient is None:
                return
            assert isinstance(gradient, Gradient)
            try:
                self.deliver(gradient, rank)
            except Exception as error:  # of the optimiser, say; in this thread nobody would see it
                log.debug("with the gradient of rank %d", rank, exc_info=True)
                self.mailbox.fail(f"{type(error).__name__}: {error}")
                return

    def _send(self, line: Line, rank: int) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: rank in self._due or self._closed or rank not in self.alive)
                weights = self._due.pop(rank, None)
                if rank not in self.alive:
                    return
            try:
                line.send(rank, weights)
            except RuntimeError:
                self._lose(rank)
                return
            if weights is None:
                return

    def _lose(self, rank: int) -> None:
        """A rank is gone: the others go on where they are enough."""
        with self._changed:
            if self._closed or rank not in self.alive:
                return
            self._arrivals.workers = tuple(other for other in self.alive if other != rank)
            scheme, left = self._arrivals.scheme, len(self.alive)
            if left < scheme.least:
                self.mailbox.fail(f"rank {rank} is gone, and {left} can't be {scheme.name} with k={scheme.k}")
            else:
                log.warning("rank %d is gone; training goes on with %d (%s, k=%d)", rank, left, scheme.name, scheme.k)
            self._changed.notify_all()

    def survives(self, rank: int, within_s: float) -> bool:
        """Whether that rank is gone, and training goes on without it."""
        with self._changed:
            gone = self._changed.wait_for(lambda: rank not in self.alive, within_s)
            return gone and len(self.alive) >= self._arrivals.scheme.least

    def close(self) -> None:
        """Training has ended."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wait(self) -> None:
        """Waits until the other ranks have closed their lines."""
        wait_for(self._threads)

    def begin_tally(self) -> None:
        """Updates are timed from now on."""
        with self._changed:
            self._since = self._last = time.monotonic()

    def tally(self) -> Tally:
        """What happened since the last one."""
        with self._changed:
            begun = self._counted + self._dropped
            found = Tally(
                (self._last - self._since) / max(1, self._updates),
                self._stale / max(1, self._counted),
                self._dropped / max(1, begun),
                len(self.alive),
            )
            self._updates = self._counted = self._stale = self._dropped = 0
            return found
