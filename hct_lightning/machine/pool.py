"""Processes that work through a list, and end when their parent ends or is interrupted."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.context import BaseContext
from types import FrameType
from typing import TypeVar

from threadpoolctl import threadpool_limits

J = TypeVar("J")
R = TypeVar("R")
_ENDING = {signal.SIGINT, signal.SIGTERM}


@contextmanager
def mapped(
    function: Callable[[J], R],
    jobs: Sequence[J],
    workers: int,
    *,
    context: BaseContext | None = None,
    start: Callable[[], None] | None = None,
    chunksize: int = 1,
) -> Iterator[Iterator[R]]:
    """The results of `function` for each job, in order. When the block is left early the rest is dropped.

    Args:
        function: of one job.
        jobs: what it is called with.
        workers: processes.
        context: how they are started.
        start: called first in each of them.
        chunksize: jobs that are handed over at a time.
    """
    with _one_at_a_time():
        pool = ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(start,))
        try:
            with _held_back():
                results = pool.map(function, jobs, chunksize=chunksize)
            yield results
        finally:
            with _held_back():
                pool.shutdown(cancel_futures=True)


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """The first Ctrl-C or SIGTERM is handled at once, further ones after the block.

    A second one could interrupt the pool's shutdown while it holds a lock, for which the rest would wait for ever.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    handlers = {number: signal.getsignal(number) for number in _ENDING}
    replaced = {number: handler for number, handler in handlers.items() if callable(handler)}

    def first(number: int, frame: FrameType | None) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
        replaced[signal.Signals(number)](number, frame)

    for number in replaced:
        signal.signal(number, first)
    try:
        yield
    finally:
        for number, handler in replaced.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextmanager
def _held_back() -> Iterator[None]:
    """Ctrl-C and SIGTERM are handled after the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(start: Callable[[], None] | None) -> None:
    """Begins a worker, which ends when its parent ends, in whatever way, and leaves Ctrl-C to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)

    parent = multiprocessing.parent_process()
    assert parent is not None  # this is a worker

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    threadpool_limits(1, "blas")  # a worker for each CPU: threads of NumPy's in each would wait for those of the others
    if start:
        start()
