"""How much memory a training step takes, said before it is taken.

On a GPU too much is an exception; on the CPU it is a kill. So two steps are run on fake tensors first: shapes and
lifetimes without data, on any machine, in seconds. What they ask for is given to a GPU's allocator, simulated.
"""

import itertools
import weakref
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hct_lightning.data.reading.geometry import Size
from hct_lightning.machine.allocators import Event, most_held
from hct_lightning.models import FromPixels
from hct_lightning.training.step import TrainingStep

Memory = Literal["speed", "low", "stream"]
STREAM_TILE = 3072  # px of a tile in training: its activations take 0.8 GB in fp32
# What oneDNN compiles for the shapes of a network, and other small things: measured with benchmark=memory_grid.
KERNELS = {"32-true": 9 * 2**20, "bf16-mixed": 14 * 2**20}


class StepMemory(NamedTuple):
    """The most bytes that a training step takes at once, with weights, gradients and Adam's moments.

    tensors: alive at the same time.
    resident: by how much a process on the CPU grows, unless its allocator leaves gaps: see `machine.runtime`.
    reserved: what PyTorch's allocator needs of a GPU, and as much as the largest tensor again for what cuDNN
        computes in. Never held to a card.
    """

    tensors: int
    resident: int
    reserved: int

    def on(self, device_type: str) -> int:
        return {"cpu": self.resident, "cuda": self.reserved}.get(device_type, self.tensors)


class Allocations(TorchDispatchMode):
    """Records the storages that operations make, and when they are freed; of fake tensors as of real ones.

    Attributes:
        events: in order.
        most: bytes alive at once.
        largest: bytes of the largest storage.
    """

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Event] = []
        self.most = self.largest = 0
        self._alive = 0
        self._storages: dict[int, weakref.ref] = {}
        self._numbers = itertools.count()

    def add(self, tensor: torch.Tensor) -> None:
        """Records the storage of a tensor until it is freed."""
        storage = tensor.untyped_storage()
        address, size = storage._cdata, storage.nbytes()
        if address not in self._storages:
            number = next(self._numbers)
            self._storages[address] = weakref.ref(storage, lambda _: self._forget(address, number, size))
            self._take(number, size)

    def beside(self, size: int) -> None:
        """Records memory that is taken and freed at once, if any."""
        if size:
            number = next(self._numbers)
            self._take(number, size)
            self._free(number, size)

    def _forget(self, address: int, number: int, size: int) -> None:
        del self._storages[address]
        self._free(number, size)

    def _take(self, number: int, size: int) -> None:
        self.events.append((number, size))
        self._alive += size
        self.most = max(self.most, self._alive)
        self.largest = max(self.largest, size)

    def _free(self, number: int, size: int) -> None:
        self.events.append((number, None))
        self._alive -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution_backward.default:
            self.beside(depthwise_scratch(*args[:3]))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.add(leaf)
        return out


def depthwise_scratch(grad: torch.Tensor, images: torch.Tensor, weight: torch.Tensor) -> int:
    """Bytes that oneDNN takes beside the tensors for the backward pass of a depthwise convolution wider than 3x3.

    It pads each channel to a block of 16: the weights' gradient in fp32, and in bf16 an image and its gradient, too.
    Read off processes (benchmark=memory_grid); all other convolutions take next to nothing.
    """
    taps = weight[0, 0].numel()
    if weight.shape[1] > 1 or images.shape[1] == 1 or taps <= 9:
        return 0
    bf16 = images.dtype == torch.bfloat16
    places = images[0, 0].numel() + grad[0, 0].numel()
    return len(weight) * 16 * (taps * 16 * (6 if bf16 else 4) + (2 * places if bf16 else 0))


def step_memory(
    build: Callable[[], FromPixels],
    *,
    channels: int,
    size: Size,
    batch: int,
    precision: str,
    memory: Memory = "speed",
    keeps_gradients: bool = False,
    ahead: int = 0,
    augmenting: int = 0,
    workers: int = 1,
) -> StepMemory:
    """The peak of whole training steps: weights, gradients, Adam's moments, activations, batches.

    Args:
        build: gives the network, from uint8 images to logits.
        channels: of the images.
        size: (height, width) of the images.
        batch: images that go forward and backward together.
        precision: Lightning's name.
        memory: `speed`, `low` or `stream`.
        keeps_gradients: they stay while the next ones are computed: those of micro-batches, or of DDP.
        ahead: batches on the same device that wait to be trained on.
        augmenting: bytes that augmentation takes beside the batch.
        workers: tiles at once, of `stream`.

    Raises:
        ValueError: when the network can't do with `low` or `stream`.
    """
    network = build().to(memory_format=torch.channels_last)
    set_memory(network, memory, workers=1)
    with FakeTensorMode() as fake:
        network._apply(fake.from_tensor)
        step = TrainingStep(network, precision=precision, keeps_gradients=keeps_gradients)
        taken = Allocations()
        for tensor in (*network.parameters(), *network.buffers()):
            taken.add(tensor)
        with taken:
            waiting = [torch.empty((batch, *size, channels), dtype=torch.uint8) for _ in range(ahead)]
            images = torch.empty((batch, *size, channels), dtype=torch.uint8).permute(0, 3, 1, 2)
            for _ in range(2):  # the second one finds Adam's moments, and the gaps that the first one left
                taken.beside(augmenting)
                step(images, torch.zeros(batch, dtype=torch.long))
    del waiting
    found = StepMemory(
        taken.most,
        taken.most + KERNELS.get(precision, KERNELS["bf16-mixed"]),
        most_held(taken.events) + taken.largest,
    )
    if memory != "stream" or workers == 1:
        return found
    side = (min(size[0], STREAM_TILE), min(size[1], STREAM_TILE))
    tile = step_memory(build, channels=channels, size=side, batch=1, precision=precision, memory="low")
    return StepMemory(*(whole + (workers - 1) * one for whole, one in zip(found, tile, strict=True)))


def set_memory(network: FromPixels, memory: Memory, *, workers: int) -> None:
    """Makes a network do with so much.

    Raises:
        ValueError: when it can't.
    """
    if memory != "speed":
        network.set_grad_checkpointing()
    if memory == "stream":
        network.set_streaming(STREAM_TILE, workers)


def tile_workers(device_type: str) -> int:
    """Tiles that a step computes at once with `memory=stream`."""
    return torch.get_num_threads() if device_type == "cpu" else 1
