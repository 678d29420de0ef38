"""The constants of a TorchScript archive: tensors within their memory, weights in int8, nothing else."""

import re
import struct

import pytest
from deploy.checked.strangers import CLASSES, FOUR, call, constants, memory, number, several, tensor, text

from hct_lightning.deploy.checked.values import check_constants

PARTS = {"0": bytes(16), "1": bytes(22)}
SCALES = tensor(memory("Double", "2", 4), 0, (4,), (1,))
ZEROS = tensor(memory("Long", "3", 4), 0, (4,), (1,))
CHANNELS = several(b"ctorch\nper_channel_affine\n", SCALES, ZEROS, number(0))
WHOLE = several(b"ctorch\nper_tensor_affine\n", b"G" + struct.pack(">d", 0.1), number(0))


def weight(size=(4, 1, 2, 2), stride=(4, 4, 2, 1), scheme: bytes = CHANNELS) -> bytes:
    return tensor(memory("QInt8", "4", 16), 0, size, stride, scheme)


def made(name: str, state: bytes) -> bytes:
    """An object of C++."""
    return f"c{CLASSES}\n{name}\n".encode() + b")\x81" + state + b"b"


def convolution(weight: bytes, bias: bytes = b"N") -> bytes:
    numbers = tensor(memory("Short", "1", 11), 0, (11,), (1,))
    tensors = call("torch.jit._pickle build_tensorlist", b"](" + numbers + weight + b"e")
    optional = call("torch.jit._pickle restore_type_tag", b"](" + bias + b"e", text("List[Optional[Tensor]]"))
    return made("Conv2dPackedParamsBase", several(text("2"), tensors, optional))


def linear(weight: bytes, bias: bytes = b"N") -> bytes:
    return made("LinearPackedParamsBase", several(weight, bias))


def check(*values: bytes, numbers=(2, 1, 1, 0, 0, 1, 1, 0, 0, 1, 0)) -> None:
    parts = {"0": bytes(16), "1": struct.pack("<11h", *numbers), "2": bytes(32), "3": bytes(32), "4": bytes(16)}
    check_constants(constants(*values), parts)


def test_what_networks_have_is_taken():
    check(FOUR, tensor(memory("Long", "2", 4), 2, (2,), (1,)), tensor(memory(), 0, (2, 2), (1, 2)))
    check(tensor(memory(), 0, (), ()), tensor(memory(), 4, (0, 3), (3, 1)))
    check(convolution(weight(), bias=FOUR))
    check(convolution(weight()))
    check(linear(weight((4, 4), (4, 1), WHOLE), bias=FOUR))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (tensor(memory(items=10**6), 0, (10**6,), (1,)), "is said to have 1000000 numbers, its memory has 16 bytes"),
        (tensor(memory(items=2**62), 0, (4,), (1,)), "is said to have 4611686018427387904 numbers"),
        (tensor(memory(items=-1), 0, (4,), (1,)), "-1 is no size"),
        (tensor(memory("Double"), 0, (4,), (1,)), "its memory has 16 bytes"),
        (tensor(memory(key="9"), 0, (4,), (1,)), "its memory has 0 bytes"),
        (tensor(memory(), 0, (5,), (1,)), "a tensor of 5 lies out of its memory"),
        (tensor(memory(), 1, (4,), (1,)), "a tensor of 4 lies out of its memory"),
        (tensor(memory(), -1, (4,), (1,)), "-1 is no size"),
        (tensor(memory(), 0, (2,), (4,)), "a tensor of 2 lies out of its memory"),
        (tensor(memory(), 0, (2,), (-1,)), "-1 is no size"),
        (tensor(memory(), 0, (-2, -2), (1, 1)), "-2 is no size"),
        (tensor(memory(), 0, (4,), (0,)), "a tensor of 4 has another order than its memory"),
        (tensor(memory(), 0, (1,), (2**62,)), "a tensor of 1 has another order"),
        (tensor(memory(), 0, (2**62,), (0,)), "lies out of its memory"),
        (tensor(memory(), 0, (2, 2), (1,)), "no size"),
        (tensor(memory("QInt8", "4", 16), 0, (4,), (1,)), "no plain tensor"),
        (tensor(memory(), 0, (4,), (1,), WHOLE), "no quantized tensor"),
        (b"K\0", "one of its constants is a int"),
        (text("a"), "one of its constants is a str"),
        (b"]", "one of its constants is a list"),
        (memory(), "one of its constants is a Storage"),
        (b"ctorch\nFloatStorage\n", "one of its constants is a Name"),
        (call("torch._utils _rebuild_sparse_tensor", number(0)), "call torch._utils _rebuild_sparse_tensor"),
        (call("torch._tensor _rebuild_from_type_v2", number(0)), "call torch._tensor _rebuild_from_type_v2"),
        (call("torch.distributed.rpc rref", number(0)), "call torch.distributed.rpc rref"),
        (call("torch device", text("cuda")), "call torch device"),
        (call("os system", text("true")), "call os system"),
        (call("torch.jit._pickle build_intlist", b"](" + FOUR + b"e"), "call torch.jit._pickle build_intlist"),
        (b"c__torch__.m\nP\n)\x81(tb", "makes objects of C[+][+] that no network needs: __torch__.m P"),
        (b"c__torch__.torch.classes.aoti\nLoader\n)\x81(tb", "makes objects of C[+][+] that .*aoti Loader"),
        (made("Conv3dPackedParamsBase", several(text("2"), b")", b")")), "a layer in int8 of another form"),
        (made("EmbeddingPackedParamsBase", several(number(1), b")")), "a layer in int8 of another form"),
        (linear(weight((4, 4), (4, 1)), bias=tensor(memory(), 0, (3,), (1,))), "another bias than channels"),
        (linear(FOUR), "a layer in int8 of another form"),
        (linear(weight((2, 4), (4, 1))), "other scales than channels"),
        (convolution(weight((2, 1, 2, 2))), "other scales than channels"),
        (convolution(weight((4, 4), (4, 1))), "a convolution in int8 of it has numbers that none has"),
        (convolution(FOUR), "a layer in int8 of another form"),
    ],
)
def test_what_no_network_has_is_refused(value, reason):
    with pytest.raises(ValueError, match=reason):
        check(value)


@pytest.mark.parametrize(
    ("place", "value"),
    [(0, 3), (1, 0), (2, -1), (3, -1), (4, 32767), (5, 0), (6, -3), (7, 1), (9, 0), (9, -1), (9, 3), (10, 1)],
)
def test_a_convolution_with_impossible_numbers_is_refused(place, value):
    numbers = [2, 1, 1, 0, 0, 1, 1, 0, 0, 1, 0]
    numbers[place] = value
    with pytest.raises(ValueError, match="a convolution in int8 of it has numbers that none has"):
        check(convolution(weight()), numbers=numbers)


@pytest.mark.parametrize(
    ("pickled", "reason"),
    [
        (b"", "of another form"),
        (b"\x80\x04).", "of another form"),
        (b"\x80\x02)", "damaged"),
        (b"\x80\x02\x80\x02).", "use PROTO"),
        (b"\x80\x02(.", "no list of tensors"),
        (b"\x80\x02K\0K\0.", "too many values"),
        (b"\x80\x02.", "not enough values"),
        (b"\x80\x02\x85.", "damaged"),
        (b"\x80\x02(\x85.", "a mark is taken for a value"),
        (b"\x80\x02t.", "damaged"),
        (b"\x80\x02)q\1.", "use BINPUT"),
        (b"\x80\x02)r\xff\xff\xff\xff.", "use LONG_BINPUT"),
        (b"\x80\x02h\0.", "damaged"),
        (b"\x80\x02](q\0e.", "use BINPUT"),
        (b"\x80\x02]q\0.", "use BINPUT"),
        (b"\x80\x02(e.", "damaged"),
        (b"\x80\x02}.", "use EMPTY_DICT"),
        (b"\x80\x02)0.", "use POP"),
        (b"\x80\x02\x8a\1\1.", "use LONG1"),
        (b"\x80\x02I1\n.", "use INT"),
        (b"\x80\x02K\0)R.", "call what is no function"),
        (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n0K\0)R.", "use POP"),
        (b"\x80\x02(i__torch__\nm\n.", "use INST"),
        (b"\x80\x02\x8c\1a.", "use SHORT_BINUNICODE"),
        (b"\x80\x02X\xff\xff\xff\xffa.", "exhausted|expected"),
        (b"\x80\x02Q.", "damaged"),
        (b"\x80\x02)Q.", "damaged"),
        (b"\x80\x02\xff.", "opcode"),
    ],
)
def test_a_pickle_that_torch_does_not_write_is_refused(pickled, reason):
    with pytest.raises(ValueError, match=reason):
        check_constants(pickled, PARTS)


def test_memory_is_not_taken_again_and_again():
    check(FOUR, FOUR)
    with pytest.raises(ValueError, match=re.escape("its tensors take the same memory again and again")):
        check_constants(constants(*[FOUR] * 3), {"0": bytes(16)})


def test_a_list_can_not_grow_when_it_has_been_looked_at():
    """torch keeps the list itself; what is added later would not be looked at."""
    kept = b"]q\0(K\1e"
    with pytest.raises(ValueError, match="use BINPUT"):
        check(call("torch.jit._pickle build_intlist", kept) + b"h\0(X\1\0\0\0ae")


def test_values_within_values_are_not_written_out():
    """Each of these holds the one before twice: in words the last would fill the memory."""
    nested = b")" + b"".join(
        b"r" + i.to_bytes(4, "little") + b"j" + i.to_bytes(4, "little") + b"\x86" for i in range(99)
    )
    for value in (nested, nested + b"Q", call("torch._utils _rebuild_tensor_v2", *[nested] + [b")"] * 5)):
        with pytest.raises(ValueError, match=r"^.{1,200}$"):
            check(value)
    items = several(text("storage"), b"ctorch\nFloatStorage\n", text("0"), text("cpu"), nested) + b"Q"
    with pytest.raises(ValueError, match="tuple is no size"):
        check(items)
