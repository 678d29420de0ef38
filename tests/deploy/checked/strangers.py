"""TorchScript archives as a stranger would write them, by hand."""

from collections.abc import Mapping
from pathlib import Path

import torch

SOURCE = """class P(Module):
  __parameters__ = []
  __buffers__ = []
  def forward(self: __torch__.m.P,
    x: Tensor) -> Tensor:
{}
"""
CLASSES = "__torch__.torch.classes.quantized"


def write(file: Path, *lines: str, parts: Mapping[str, bytes | None] | None = None) -> Path:
    """The archive whose program is these lines, and whose parts are these, or not these, beside those it needs."""
    usual = {
        "data.pkl": b"\x80\x02c__torch__.m\nP\nq\0)\x81}(ubq\1.",
        "code/__torch__/m.py": SOURCE.format("\n".join(f"    {line}" for line in lines)).encode(),
        "constants.pkl": constants(FOUR),
        "constants/0": bytes(16),
        "constants/1": bytes(22),
    }
    writer = torch._C.PyTorchFileWriter(str(file))
    for name, part in (usual | dict(parts or {})).items():
        if part is not None:
            writer.write_record(name, part, len(part))
    writer.write_end_of_file()
    return file


def text(value: str) -> bytes:
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def number(value: int) -> bytes:
    return b"\x8a\x08" + value.to_bytes(8, "little", signed=True)


def several(*values: bytes) -> bytes:
    return b"(" + b"".join(values) + b"t"


def call(function: str, *values: bytes) -> bytes:
    return f"c{function}\n".replace(" ", "\n").encode() + several(*values) + b"R"


def memory(kind: str = "Float", key: str = "0", items: int = 4) -> bytes:
    return several(text("storage"), f"ctorch\n{kind}Storage\n".encode(), text(key), text("cpu"), number(items)) + b"Q"


def tensor(storage: bytes, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *scheme: bytes) -> bytes:
    numbers = (number(offset), several(*map(number, size)), several(*map(number, stride)))
    function = "_rebuild_qtensor" if scheme else "_rebuild_tensor_v2"
    return call(f"torch._utils {function}", storage, *numbers, *scheme, b"\x89", call("collections OrderedDict"))


FOUR = tensor(memory(), 0, (4,), (1,))  # a tensor of four numbers


def constants(*values: bytes) -> bytes:
    return b"\x80\x02" + several(*values) + b"."
