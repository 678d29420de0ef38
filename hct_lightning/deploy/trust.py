"""What model files may do: programs, which of them are this user's own; options; files that would fill the memory.

An AOTInductor package is machine code, and a TorchScript archive a program. Loading one runs it, as the user who loads
it. So this user's own are remembered when they are made, by their digests, and any other has to be trusted explicitly;
but a stranger's TorchScript runs in Python where `checked` knows all that it names.
"""

import logging
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

log = logging.getLogger(__name__)

HOW = "use predict.trust=true, serve.trust=true or load_artifact(..., trust=True)"  # to say that a file is trusted
_LARGEST = 10_000  # number among the options of a network: the depth of one that a file describes must not take hours
_TABLES = 2**28  # bytes that a network may compute when it is built


def _list() -> Path:
    """Raises OSError where this user has no home."""
    try:
        home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    except RuntimeError as error:
        raise FileNotFoundError(f"{error} Give one by XDG_STATE_HOME") from error
    return Path(home) / "hct_lightning" / "compiled.txt"


def remember(digest: str) -> None:
    """Notes that this user has made the file with this digest, where that can be written."""
    try:
        file = _list()
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with file.open("a", encoding="ascii") as lines:
            lines.write(f"{digest}\n")
    except OSError as error:  # as in a container, whose home is read only
        log.warning(
            "the list of your own artifacts can't be written, so this artifact has to be trusted as a stranger's: %s",
            error,
        )


def is_own(digest: str) -> bool:
    """Whether this user has made the file with this digest."""
    try:
        return digest in _list().read_text(encoding="ascii").split()
    except OSError:  # there is none, or none that can be read
        return False


def first_special(options: Any) -> str | None:
    """A key that means something to Hydra (`_target_`, `_args_`, ...), or a value that is not plain, somewhere inside.

    Args:
        options: of a network, as a file gives them.
    """
    if isinstance(options, Mapping):
        special = next((str(key) for key in options if not isinstance(key, str) or key.startswith("_")), None)
        return special or first_special(list(options.values()))
    if isinstance(options, list | tuple):
        return next(filter(None, map(first_special, options)), None)
    if isinstance(options, str):
        return options if "${" in options else None
    if options is None or (isinstance(options, int | float) and abs(options) <= _LARGEST):
        return None
    return str(options)


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
