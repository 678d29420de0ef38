"""How much memory a training step takes, said before it is taken.

On a GPU too much is an exception; on the CPU it is a kill. So the step is run on fake tensors first:
shapes and lifetimes without data, on any machine, in seconds.
"""

import weakref
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hct_lightning.data.reading.geometry import Size
from hct_lightning.models import FromPixels
from hct_lightning.training.step import TrainingStep

Memory = Literal["speed", "low"]
HEAP_BLOCK = 32 * 2**20  # bytes: glibc's DEFAULT_MMAP_THRESHOLD_MAX
HEAP_GAPS = 1.5  # the heap over what is alive in it, measured: task=benchmark benchmark=memory


class StepMemory(NamedTuple):
    """The most bytes that a training step takes at once.

    tensors: alive at the same time, with weights, gradients, Adam's moments and the batch: what a GPU
        must have free, beside what its libraries take.
    resident: by how much the resident set of a process grows on the CPU under glibc.
    """

    tensors: int
    resident: int

    def on(self, device_type: str) -> int:
        return self.resident if device_type == "cpu" else self.tensors


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that are alive, on fake tensors as on real ones.

    glibc takes larger blocks from the system and gives them back; smaller ones lie in its heap,
    which never shrinks for long. So the two have their high-water marks apart.
    """

    def __init__(self) -> None:
        super().__init__()
        self._storages: dict[int, weakref.ref] = {}
        self._small = self._large = 0
        self.most = self.most_small = self.most_large = 0

    def add(self, tensor: torch.Tensor) -> None:
        """Counts the storage of a tensor until it is freed."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._storages:
            self._storages[key] = weakref.ref(storage, lambda _: self._forget(key, size))
            self._count(size)
            self.most = max(self.most, self._small + self._large)

    def _forget(self, key: int, size: int) -> None:
        del self._storages[key]
        self._count(-size)

    def _count(self, size: int) -> None:
        if abs(size) > HEAP_BLOCK:
            self._large += size
        else:
            self._small += size
        self.most_small = max(self.most_small, self._small)
        self.most_large = max(self.most_large, self._large)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.add(leaf)
        return out


def step_memory(
    build: Callable[[], FromPixels],
    *,
    channels: int,
    size: Size,
    batch: int,
    precision: str,
    memory: Memory = "speed",
) -> StepMemory:
    """The peak of a whole training step: weights, gradients, Adam's moments, activations, batch.

    Args:
        build: gives the network, from uint8 images to logits.
        channels: of the images.
        size: (height, width) of the images.
        batch: images that go forward and backward together.
        precision: Lightning's name.
        memory: `speed` or `low`.

    Raises:
        ValueError: when the network can't do with `low`.
    """
    network = build().to(memory_format=torch.channels_last)
    if memory == "low":
        network.set_grad_checkpointing()
    with FakeTensorMode() as fake:
        network._apply(fake.from_tensor)
        step = TrainingStep(network, precision=precision)
        live = LiveBytes()
        for tensor in (*network.parameters(), *network.buffers()):
            live.add(tensor)
        with live:
            for parameter in network.parameters():  # Adam's moments come with the first step
                parameter.grad = torch.zeros_like(parameter)
            step.optimizer.step()
            step.optimizer.zero_grad()
            images = torch.empty((batch, *size, channels), dtype=torch.uint8).permute(0, 3, 1, 2)
            step(images, torch.zeros(batch, dtype=torch.long))
    return StepMemory(live.most, int(HEAP_GAPS * live.most_small) + live.most_large)
