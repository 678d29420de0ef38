"""A device that only pretends to be one: what would wait for a GPU raises, on real CPU tensors.

The tensors of a network and of a batch are taken to be on the device, and what is computed from them. Python can read
none of them, for a GPU would have to finish first what it was given before.
"""

import contextlib
import json
import sys
import weakref
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hct_lightning.callbacks.last_checkpoint import Loss
from hct_lightning.data.feeding.augment import augmentation

aten = torch.ops.aten

# Their results are Python's numbers, or as large as the values say.
READS = (
    aten._local_scalar_dense,
    aten.is_nonzero,
    aten.item,
    aten.equal,
    aten.nonzero,
    aten.masked_select,
    aten.unique_dim,
    aten._unique2,
    aten.bincount,
)
# Methods that read the memory of a CPU tensor without an operator.
METHODS = ("cpu", "numpy", "tolist", "item", "__array__", "__bool__", "__int__", "__float__", "__index__")


class WouldWait(AssertionError):  # noqa: N818
    """Python waits for the device."""


class Device:
    """Knows the tensors on the pretended device by their memory.

    Args:
        allowed: where a read may come from: `file.py:function`, and how often it came.
    """

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        self.allowed = Counter(dict.fromkeys(allowed, 0))
        self._there: dict[int, weakref.ref] = {}

    def put(self, *tensors: Tensor) -> None:
        for tensor in tensors:
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key not in self._there:
                self._there[key] = weakref.ref(storage, lambda _, key=key: self._there.pop(key, None))

    def has(self, value: Any) -> bool:
        return isinstance(value, Tensor) and value.untyped_storage()._cdata in self._there

    def any(self, *values: Any) -> bool:
        return any(self.has(leaf) for leaf in tree_leaves(values))

    def read(self, what: str) -> None:
        """Raises, unless a caller is allowed to."""
        frame = sys._getframe(1)
        while frame:
            place = f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_code.co_name}"
            if place in self.allowed:
                self.allowed[place] += 1
                return
            frame = frame.f_back
        raise WouldWait(what)


class Operators(TorchDispatchMode):
    """What operators read, in backward too, and what the collectives of the host wait for."""

    def __init__(self, device: Device) -> None:
        super().__init__()
        self.device = device
        self.collectives: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        device, packet = self.device, func.overloadpacket
        if func.namespace == "c10d":
            self.collectives.append(packet.__name__)
        there = device.any(args, kwargs)
        by_mask = packet in (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_) and any(
            isinstance(leaf, Tensor) and leaf.dtype in (torch.bool, torch.uint8) for leaf in tree_leaves(args[1:2])
        )
        if there and (packet in READS or by_mask):
            device.read(str(func))
        out = func(*args, **(kwargs or {}))
        if there:
            device.put(*(leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)))
        return out


class Methods(TorchFunctionMode):
    """What methods of tensors read that call no operator on the CPU."""

    def __init__(self, device: Device) -> None:
        super().__init__()
        self.device = device
        self.reads = {getattr(Tensor, name): name for name in METHODS}

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        # The word, for the CPU as a torch.device may be the pretended device.
        to_host = func is Tensor.to and "cpu" in (*args[1:], kwargs.get("device"))
        if args and self.device.has(args[0]) and (func in self.reads or to_host):
            self.device.read(f"Tensor.{self.reads.get(func, 'to')}")
            with no_dispatch():  # what comes is on the host
                return args[0].detach().clone() if func is Tensor.cpu or to_host else func(*args, **kwargs)
        return func(*args, **kwargs)


class Refuse(Callback):
    """Pretends that training is on a device, and that only some may read from it. Leaves `waiting.json` in the run's folder:

    reads: how often each of `allowed` read.
    losses: the steps whose losses were sent to the host (+) and read there (-), in order.
    collectives: the names of those of each step but an epoch's first and last, in order.
    """

    def __init__(self, allowed: Iterable[str]) -> None:
        self.device = Device(allowed)
        self.operators = Operators(self.device)
        self.modes = contextlib.ExitStack()
        self.losses: list[int] = []
        self.collectives: list[list[str]] = []

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self.device.put(*module.parameters(), *module.buffers())
        data, transfer = trainer.datamodule, trainer.datamodule.transfer_batch_to_device
        sent, read = Loss.sent, Loss.read

        def transfer_there(*args: Any) -> Any:
            batch = transfer(*args)
            self.device.put(batch.images, batch.labels)
            return batch

        def ways_for(image: Tensor) -> Any:
            return augmentation.device

        def note_sent(step: int, *args: Any) -> Loss:
            self.losses.append(step)
            return sent(step, *args)

        def note_read(loss: Loss) -> float:
            self.losses.append(-loss.step)
            return read(loss)

        self.modes.enter_context(self.operators)
        self.modes.enter_context(Methods(self.device))
        self.modes.enter_context(mock.patch.object(augmentation, "ways_for", ways_for))
        self.modes.enter_context(mock.patch.object(data, "transfer_batch_to_device", transfer_there))
        self.modes.enter_context(mock.patch.object(Loss, "sent", note_sent))
        self.modes.enter_context(mock.patch.object(Loss, "read", note_read))

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx > 1:
            self.collectives.append(self.operators.collectives)
        self.operators.collectives = []

    def on_train_end(self, trainer: Any, module: Any) -> None:
        self.modes.close()
        if trainer.is_global_zero:
            found = {"reads": self.device.allowed, "losses": self.losses, "collectives": self.collectives}
            Path(trainer.default_root_dir, "waiting.json").write_text(json.dumps(found))

    def on_exception(self, trainer: Any, module: Any, exception: BaseException) -> None:
        self.modes.close()
