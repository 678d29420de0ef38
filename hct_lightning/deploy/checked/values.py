"""The pickles of a TorchScript archive: which values they make, and whether those are in bounds. Nothing is unpickled.

torch believes what a pickle says of a tensor's memory, and reads and writes there. Its machine is a stack, as here,
but it takes a number for a function, and what stands below a mark for what stands above; here both are refused.
"""

import pickletools
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

_ITEM_BYTES = {"Float": 4, "Double": 8, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1}
_ITEM_BYTES |= {"Bool": 1, "QInt8": 1}
_CLASSES = "__torch__.torch.classes.quantized "  # of C++: weights that are packed for the CPU
_TENSOR, _QUANTIZED = "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_qtensor"
_LISTS = {"build_intlist": "int", "build_tensorlist": "Tensor", "restore_type_tag": "Tensor | None"}
_MOST_SPATIAL = 2**12  # of a packed convolution's stride, padding and dilation


@dataclass(frozen=True)
class Name:
    """Of a function, a class or a type of numbers."""

    name: str


@dataclass(frozen=True)
class Storage:
    """The memory of a tensor: a part of the archive."""

    kind: str
    items: int
    content: bytes


@dataclass(frozen=True)
class Array:
    """A tensor."""

    kind: str
    size: tuple[int, ...]
    storage: Storage


@dataclass(frozen=True)
class Mark:
    """Where a tuple or a list begins."""


@dataclass(frozen=True)
class Packed:
    """An object with the weight of a layer in int8."""

    name: str


def check_constants(pickled: bytes, parts: Mapping[str, bytes]) -> None:
    """Refuses constants of a program that are no tensors, or no packed weights, or lie out of their bounds.

    Args:
        pickled: a tuple of them.
        parts: the memory of each tensor, by the name that the pickle gives it.

    Raises:
        ValueError: with what is wrong.
    """
    try:
        constants = _Machine(parts).run(pickled)
    except (AttributeError, IndexError, KeyError, TypeError, struct.error) as error:
        raise ValueError(f"its constants are damaged: {error!r:.100}") from error
    if not isinstance(constants, tuple):
        raise ValueError("its constants are no list of tensors")
    for value in constants:
        if not isinstance(value, (Array, Packed)):
            raise ValueError(f"one of its constants is a {type(value).__name__}, which no known network needs")


class _Machine:
    def __init__(self, parts: Mapping[str, bytes]) -> None:
        self.parts = parts
        self.stack: list[Any] = []
        self.memo: list[Any] = []
        self.left = 2 * sum(map(len, parts.values()))  # bytes that are read: torch reads each anew

    def run(self, pickled: bytes) -> Any:
        """The one value that the pickle makes."""
        if pickled[:2] != b"\x80\x02":
            raise ValueError("its constants are of another form than torch's")
        for opcode, given, place in pickletools.genops(pickled):
            if opcode.name == "STOP":
                (value,) = self.stack
                return value
            if place:  # behind the protocol
                self.step(opcode.name, given, pickled[place + 1] == 8)
        raise ValueError("its constants have no end")

    def pop(self, count: int) -> list[Any]:
        """As many from the top of the stack, with no mark among them."""
        values = [self.stack.pop() for _ in range(count)][::-1]
        if any(isinstance(value, Mark) for value in values):
            raise ValueError("its constants are damaged: a mark is taken for a value")
        return values

    def step(self, opcode: str, given: Any, eight: bool) -> None:
        stack, plain = self.stack, {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
        match opcode:
            case "NONE" | "NEWTRUE" | "NEWFALSE" | "EMPTY_TUPLE":
                stack.append(plain[opcode])
            case "BININT1" | "BININT2" | "BININT" | "BINFLOAT" | "BINUNICODE":
                stack.append(given)
            case "LONG1" if eight:
                stack.append(given)
            case "GLOBAL":
                stack.append(Name(given))
            case "EMPTY_LIST":
                stack.append([])
            case "MARK":
                stack.append(Mark())
            # A list that is kept could be added to when it has been looked at.
            case "BINPUT" | "LONG_BINPUT" if given == len(self.memo) and not isinstance(stack[-1], (Mark, list)):
                self.memo.append(stack[-1])
            case "BINGET" | "LONG_BINGET":
                stack.append(self.memo[given])
            case "TUPLE" | "APPENDS":
                values: list[Any] = []
                while not isinstance(value := stack.pop(), Mark):
                    values.append(value)
                if opcode == "TUPLE":
                    stack.append(tuple(values[::-1]))
                else:
                    _list(stack[-1]).extend(values[::-1])
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self.pop(int(opcode[-1]))))
            case "BINPERSID":
                stack.append(self.storage(*self.pop(1)[0]))
            case "NEWOBJ":
                name, nothing = self.pop(2)
                if nothing != () or not isinstance(name, Name):
                    raise ValueError("its constants make an object in another way than torch does")
                stack.append(name)
            case "REDUCE" | "BUILD":
                stack.append(_call(*self.pop(2), build=opcode == "BUILD"))
            case _:
                raise ValueError(f"its constants use {opcode}, which no known network needs")

    def storage(self, word: Any, kind: Any, key: Any, device: Any, items: Any) -> Storage:
        if word != "storage" or device != "cpu" or not isinstance(kind, Name) or not isinstance(key, str):
            raise ValueError("its constants name a memory in another way than torch does")
        package, _, name = kind.name.partition(" ")
        size = _ITEM_BYTES[name.removesuffix("Storage")]
        content = self.parts.get(key, b"")
        if package != "torch" or not name.endswith("Storage") or _int(items) * size != len(content):
            raise ValueError(f"a tensor of it is said to have {items} numbers, its memory has {len(content)} bytes")
        self.left -= len(content)
        if self.left < 0:
            raise ValueError("its tensors take the same memory again and again")
        return Storage(name.removesuffix("Storage"), items, content)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError("no list")
    return value


def _int(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise TypeError(f"{value if type(value) is int else type(value).__name__} is no size")
    return value


def _call(function: Any, given: Any, *, build: bool) -> Any:
    """What the function makes of it."""
    if not isinstance(function, Name) or type(given) is not tuple:
        raise ValueError("its constants call what is no function")
    package, _, name = function.name.partition(" ")
    if build != function.name.startswith(_CLASSES):
        raise ValueError(f"its program makes objects of C++ that no network needs: {function.name:.100}")
    if build:
        return _packed(name, given)
    if function.name == "collections OrderedDict" and given == ():
        return None
    if function.name == _TENSOR and len(given) == 6:
        return _tensor(*given)
    if function.name == _QUANTIZED and len(given) == 7:
        return _quantized(*given)
    if package == "torch.jit._pickle" and name in _LISTS:
        kind, values = _LISTS[name], _list(given[0])
        whole = given[1:] == (("List[Optional[Tensor]]",) if name == "restore_type_tag" else ())
        right = int if kind == "int" else Array if kind == "Tensor" else (Array, type(None))
        if whole and all(isinstance(value, right) for value in values):
            return tuple(values)  # nothing is added to it any more
    raise ValueError(f"its constants call {function.name:.100}, which no known network needs")


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, gradient: Any, hooks: Any) -> Array:
    if not isinstance(storage, Storage) or type(gradient) is not bool or hooks is not None:
        raise TypeError("no tensor")
    if type(size) is not tuple or type(stride) is not tuple or len(size) != len(stride):
        raise TypeError("no size")
    if storage.kind.startswith("Q"):
        raise TypeError("no plain tensor")
    return _within(storage, offset, size, stride)


def _within(storage: Storage, offset: Any, size: tuple[Any, ...], stride: tuple[Any, ...]) -> Array:
    count = prod(map(_int, size))
    last = _int(offset) + sum((length - 1) * _int(step) for length, step in zip(size, stride, strict=True))
    if count > storage.items or offset > storage.items or (count and last >= storage.items):
        raise ValueError(f"a tensor of {'x'.join(map(str, size)):.100} lies out of its memory")
    if max(stride, default=0) > max(storage.items, 1) or any(
        not step and length > 1 for length, step in zip(size, stride, strict=True)
    ):
        raise ValueError(f"a tensor of {'x'.join(map(str, size)):.100} has another order than its memory")
    return Array(storage.kind, size, storage)


def _quantized(storage: Any, offset: Any, size: Any, stride: Any, scheme: Any, gradient: Any, hooks: Any) -> Array:
    if not isinstance(storage, Storage) or storage.kind != "QInt8" or gradient is not False or hooks is not None:
        raise TypeError("no quantized tensor")
    array = _within(storage, offset, size, stride)
    match scheme:
        case (Name("torch per_tensor_affine"), float(), int()):
            return array
        case (Name("torch per_channel_affine"), Array("Double", scales), Array("Long", zeros), int(axis)):
            if axis == 0 and scales == zeros == size[:1]:
                return array
    raise ValueError("a tensor of it has other scales than channels")


def _packed(name: str, state: tuple[Any, ...]) -> Packed:
    match name, state:
        case "LinearPackedParamsBase", (Array("QInt8", (outputs, _)), bias):
            pass
        case "Conv2dPackedParamsBase", ("2", (Array("Short", (11,)) as numbers, Array("QInt8", size)), (bias,)):
            _check_convolution(struct.unpack("<11h", numbers.storage.content), size)
            outputs = size[0]
        case _:
            raise ValueError("it has a layer in int8 of another form than torch's")
    if bias is not None and (bias.kind, bias.size) != ("Float", (outputs,)):
        raise ValueError("a layer in int8 of it has another bias than channels")
    return Packed(name)


def _check_convolution(numbers: tuple[int, ...], size: tuple[int, ...]) -> None:
    """Of numbers: 2 for two dimensions, stride, padding, dilation, output padding, groups, whether it is transposed."""
    dimensions, *sides, groups, transposed = numbers
    steps, borders, extra = sides[:2] + sides[4:6], sides[2:4], sides[6:]
    fine = len(size) == 4 and min(size) > 0 and dimensions == 2 and not transposed and not any(extra)
    fine = fine and all(0 < step <= _MOST_SPATIAL for step in steps)
    fine = fine and all(0 <= border <= _MOST_SPATIAL for border in borders)
    if not (fine and groups > 0 and size[0] % groups == 0):
        raise ValueError("a convolution in int8 of it has numbers that none has")
