"""Model files that are programs: which of them may run.

An AOTInductor package is machine code. Loading one runs it, as the user who loads it. So this user's own are
remembered when they are made, by their digests, and any other has to be trusted explicitly.
"""

import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch._C import PyTorchFileReader

# Operations of TorchScript that read or write files, by whichever name an archive gives their package.
_ON_FILES = re.compile(rb"\b(from_file|save|load|read_file|write_file|load_tensor|rpc\w*|fork)\b")
# Operations that are not meant to be called: among them those that read and write wherever they are told to.
# Those of networks, and an attribute of modules, are known.
_KNOWN = rb"_convolution|_weight_norm|_make_per_(tensor|channel)_quantized_tensor|_is_full_backward_hook"
_INTERNAL = re.compile(rb"\b(?!(%s)\b)_[a-z]\w*|\w*unsafe\w*" % _KNOWN)
_PACKAGE = re.compile(rb"\bops\b(?!\.(prim|quantized)\.)[\s.]*\w*")
# Sparse tensors lend out their indices, which are not checked again when something is written where they say.
_SPARSE = re.compile(rb"\w*(?:sparse|coalesce)\w*|\b(?:(?:c?crow|c?col|row)_)?indices\b")
_TERMINAL = re.compile(rb"\b(?:[Pp]rint|warn)\b|[^\n\t\x20-\x7e]")
# What could spell a name in other ways than these see.
_SPELLING = re.compile(rb"\bgetattr\b|\\")
_PROGRAM = 2**26  # bytes of source
_TABLES = 2**28  # bytes that a network may compute when it is built
# Classes of C++ have this name; those of quantized weights alone are needed.
_CLASS = re.compile(rb"torch[.\n]classes")
_QUANTIZED = b"__torch__.torch.classes.quantized"


def _list() -> Path:
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "hct_lightning" / "compiled.txt"


def remember(digest: str) -> None:
    """Notes that this user has made the file with this digest."""
    file = _list()
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with file.open("a", encoding="ascii") as lines:
        lines.write(f"{digest}\n")


def is_own(digest: str) -> bool:
    """Whether this user has made the file with this digest."""
    file = _list()
    return file.is_file() and digest in file.read_text(encoding="ascii").split()


def refuse_inflated(path: Path, *, compressed: int = 0) -> None:
    """Refuses an archive whose parts together are larger than itself: reading it could fill the memory.

    Args:
        path: of the archive.
        compressed: bytes that its compressed parts may have beside. Tensors are not compressed, programs are.

    Raises:
        zipfile.BadZipFile: when it is such a one, or none.
    """
    with zipfile.ZipFile(path) as archive:
        inside = sum(part.file_size for part in archive.infolist())
    if inside > path.stat().st_size + compressed:
        raise zipfile.BadZipFile(f"its parts are said to have {inside} bytes, it has {path.stat().st_size}")


def refuse_larger(build: Callable[[], nn.Module], file: Path) -> None:
    """Refuses a network that is larger than the file with its weights, before it takes memory.

    Raises:
        ValueError: also when it computes tables of more than that and 256 MB, which are in no file.
    """
    try:
        with torch.device("meta"):
            network = build()
    except Exception:  # some networks compute while they are built; what is wrong with others shows soon
        return
    needed, held = sum(value.nbytes for value in network.state_dict().values()), file.stat().st_size
    if needed > held:
        raise ValueError(f"the network is said to have {needed} bytes of weights, the file has {held}")
    computed = sum(buffer.nbytes for buffer in network.buffers())
    if computed > held + _TABLES:
        raise ValueError(f"the network is said to compute {computed} bytes of tables, at most {_TABLES} are taken")


def check_archive(file: Path) -> None:
    """Refuses a TorchScript archive that could do more than compute; nothing of it has run yet.

    Raises:
        ValueError: when it is no such archive, or names an operation on files or a class that is none of weights.
    """
    try:
        refuse_inflated(file, compressed=_PROGRAM)
        archive = PyTorchFileReader(str(file))  # what reads it later, so that both see the same
        names = archive.get_all_records()
        # Of tensors alone there can be no program. Names count whatever their case is, as they do for that reader.
        parts = {
            name.lower(): archive.get_record(name) for name in names if not name.startswith(("constants/", "data/"))
        }
    except (RuntimeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{file} is no TorchScript archive: {str(error).splitlines()[0]}") from error
    if len({name.lower() for name in names}) < len(names):
        raise ValueError(f"{file} is refused: two of its parts have the same name")
    if "model.json" in parts:
        raise ValueError(f"{file} is a TorchScript archive of an old form; export it again")
    for name, part in parts.items():
        for forbidden in (_ON_FILES, _INTERNAL, _PACKAGE, _SPARSE, _TERMINAL, _SPELLING):
            if name.endswith(".py") and (found := forbidden.search(part)):
                word = ascii(found[0].decode(errors="replace")).strip("'")
                raise ValueError(f"{file} is refused: its program names {word:.100}, which no network needs")
        # A trace of where the program came from may quote any source.
        foreign = _CLASS.search(part) if name.endswith(".debug_pkl") else _classes(part) != part.count(_QUANTIZED)
        if foreign:
            raise ValueError(f"{file} is refused: its program makes objects of C++ that no network needs")


def _classes(part: bytes) -> int:
    return len(re.findall(rb"\bclasses\b", part))
