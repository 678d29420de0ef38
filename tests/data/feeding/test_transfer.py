"""Copies to a GPU that isn't there: streams, events and memory that write down what happens to them."""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from waiting import Device

from hct_lightning.data.feeding import transfer
from hct_lightning.data.feeding.images import Images
from hct_lightning.data.feeding.loader import Loader
from hct_lightning.data.feeding.samplers import GlobalBatches
from hct_lightning.data.feeding.transfer import ON_DEVICE
from hct_lightning.data.reading.readers import Reader

GPU = torch.device("cuda", 0)


class Stream:
    """Work is given to it in order, and counted. It does none before Python waits for it."""

    def __init__(self, gpu: "Gpu") -> None:
        self.gpu = gpu
        self.given = self.done = 0

    def record_event(self) -> "Event":
        return Event(self)

    def wait_event(self, event: "Event") -> None:
        assert event.stream is not self
        self.given += 1
        self.gpu.log.append("waits for the copy")


class Event:
    """Behind what its stream had been given; two are a millisecond apart."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.passed = stream.given

    def record(self) -> None:
        self.passed = self.stream.given

    def synchronize(self) -> None:
        self.stream.done = max(self.stream.done, self.passed)
        self.stream.gpu.log.append("Python waits")

    def elapsed_time(self, end: "Event") -> float:
        return 1.0


class Gpu:
    """A pretended GPU.

    Attributes:
        streams: made beside the default one, which computes.
        most: batches on it at once, at most: that Python holds, or that work it has been given needs.
        pinned: knows the host's memory that it copies from.
    """

    def __init__(self) -> None:
        self.current = self.default = Stream(self)
        self.streams: list[Stream] = []
        self.log: list[str] = []
        self.held = self.most = 0
        self.pinned = Device()
        self.dropped: list[int] = []  # by Python: what the default stream had been given then

    def make_stream(self, device: torch.device) -> Stream:
        self.streams.append(Stream(self))
        return self.streams[-1]

    @contextmanager
    def on(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before

    def copy(self, tensor: Tensor) -> Tensor:
        assert self.current is not self.default, "copied on the stream that computes"
        there = tensor.clone()
        if there.ndim == 4:
            self.log.append("copy")
            self.held += 1
            weakref.finalize(there, self._drop)
            self.most = max(self.most, self.held + sum(given > self.default.done for given in self.dropped))
        return there

    def _drop(self) -> None:
        self.held -= 1
        self.dropped.append(self.default.given)


@pytest.fixture
def gpu(monkeypatch) -> Iterator[Gpu]:
    gpu = Gpu()
    to = Tensor.to

    def pretended_to(tensor: Tensor, device: Any, *args: Any, **options: Any) -> Tensor:
        if device != GPU:
            return to(tensor, device, *args, **options)
        assert options == {"non_blocking": True}
        assert gpu.pinned.has(tensor), "Python may wait for a copy of what is not pinned"
        return gpu.copy(tensor)

    def pinning(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def made(*args: Any, pin_memory: bool = False, **options: Any) -> Tensor:
            tensor = make(*args, **options)
            if pin_memory:
                gpu.pinned.put(tensor)
            return tensor

        return made

    def record_stream(tensor: Tensor, stream: Stream) -> None:
        assert stream is gpu.default

    monkeypatch.setattr(torch.cuda, "Stream", gpu.make_stream)
    monkeypatch.setattr(torch.cuda, "Event", lambda **options: Event(gpu.current))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: gpu.current)
    monkeypatch.setattr(torch.cuda, "stream", gpu.on)
    monkeypatch.setattr(Tensor, "to", pretended_to)
    monkeypatch.setattr(Tensor, "record_stream", record_stream)
    for name in ("empty", "tensor"):
        monkeypatch.setattr(torch, name, pinning(getattr(torch, name)))
    transfer.transfer_to.cache_clear()
    yield gpu
    transfer.transfer_to.cache_clear()


class Numbers(Reader):
    """An image is its number."""

    shape = (2, 2, 1)

    def into(self, path: str, place: np.ndarray) -> None:
        place[:] = int(path)


def numbers(count: int) -> Images:
    return Images([str(i) for i in range(count)], [0] * count, Numbers())


@pytest.mark.parametrize("workers", [0, 2])
def test_twenty_epochs_take_one_stream_and_hold_the_batches_that_are_planned(gpu, workers):
    step = 0
    order = GlobalBatches(20, 4, seed=0, step=lambda: step, micro_batches=2, last_step=lambda: 100)
    training = Loader(numbers(20), order, num_workers=workers, device=GPU)
    validation = Loader(numbers(6), [[0, 1], [2, 3], [4, 5]], num_workers=workers, device=GPU)
    seen: list[list[int]] = []
    for _ in range(20):
        for n, batch in enumerate(training):
            assert batch.images.flatten(1)[:, 0].tolist() == batch.index.tolist()
            seen.append(batch.index.tolist())
            gpu.default.given += 1  # the work on it
            step += n % 2
        del batch
        for _ in validation:
            gpu.default.given += 1
    training.close()
    assert step == 100
    assert len(gpu.streams) == 1
    assert gpu.most == ON_DEVICE
    assert seen == [indices for epoch in range(20) for indices in order.order(epoch).reshape(10, 2).tolist()]


def test_a_batch_is_given_as_soon_as_its_copy_has_begun(gpu):
    loader = iter(Loader(numbers(4), [[0], [1], [2], [3]], device=GPU))
    for _ in range(4):
        gpu.log.append("next")
        next(loader)
    first = ["next", "copy", "waits for the copy"]
    later = ["next", "Python waits", "copy", "waits for the copy"]  # for the device to have done all but the last batch
    assert gpu.log == [*first, *later, *later, *later]


def test_the_time_that_the_device_waits_is_read_from_its_events(gpu):
    loader = Loader(numbers(4), [[0], [1], [2], [3]], device=GPU)
    assert len(list(loader)) == 4
    assert loader.waited_s == pytest.approx(4 * 0.001)  # a span a batch
