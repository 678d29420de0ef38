"""A TorchScript archive of a stranger's, written anew from what of it is known; the file itself torch never opens."""

import io
import re
import zipfile
from pathlib import Path

from torch._C import PyTorchFileReader, PyTorchFileWriter

from hct_lightning.deploy.checked import code, values
from hct_lightning.deploy.trust import HOW, refuse_inflated

MOST = 2**22  # bytes of the program, and of the pickle with its constants
_CODE = re.compile(r"code/((?:\w+/)*\w+)\.py", re.ASCII)
_CONSTANT = re.compile(r"constants/(\d+)", re.ASCII)
_VERSION = re.compile(rb"\d{1,3}\n?")
# Where its operators come from is quoted here. It is left out: torch would read it when one of them fails.
_ORIGIN = ".debug_pkl"
_MADE_ANEW = frozenset((".data/version", "version", ".data/serialization_id", "byteorder"))
_NAMED = _MADE_ANEW | {"data.pkl", "constants.pkl"}


def known_parts(file: Path) -> io.BytesIO:
    """The archive as torch may load it: the same program and constants, and nothing else.

    Raises:
        ValueError: naming what stands in the file that is not known.
    """
    parts = _parts(file)
    try:
        part, source, module = _program(parts)
        name, source = code.checked(source, module)
        package, _, short = name.rpartition(".")
        if _whole(parts, "data.pkl") != f"\x80\x02c{package}\n{short}\nq\0)\x81}}(ubq\x01.".encode("latin-1"):
            raise ValueError("its network holds other values than its program's constants")
        tensors = {match[1]: part for name, part in parts.items() if (match := _CONSTANT.fullmatch(name))}
        values.check_constants(_whole(parts, "constants.pkl"), tensors)
        return _written(parts | {part: source.encode("ascii")})
    except ValueError as error:
        raise ValueError(
            f"{file} is refused: {error}; export it again here, or if you trust who made it, {HOW}"
        ) from error


def _parts(file: Path) -> dict[str, bytes]:
    """What lies in the file, by its name there."""
    try:
        refuse_inflated(file, compressed=4 * MOST)
        reader = PyTorchFileReader(str(file))
        return {name: reader.get_record(name) for name in reader.get_all_records()}
    except (IndexError, RuntimeError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{file} is no TorchScript archive: {str(error).splitlines()[0]}") from error


def _whole(parts: dict[str, bytes], name: str) -> bytes:
    if len(part := parts.get(name, b"")) > MOST:
        raise ValueError(f"its {name} has {len(part)} bytes, no known network more than {MOST}")
    return part


def _program(parts: dict[str, bytes]) -> tuple[str, str, str]:
    """Which part it is, its source, and the name that its place gives it."""
    found = ""
    for name, part in parts.items():
        if (is_code := _CODE.fullmatch(name)) and part:
            if found:
                raise ValueError("it has more than one program")
            found = name
        elif not (is_code or _CONSTANT.fullmatch(name) or name.endswith(_ORIGIN) or name in _NAMED):
            raise ValueError(f"its part {name!a:.100} is none that networks have")
    try:
        source = _whole(parts, found).decode("ascii")
    except UnicodeDecodeError as error:
        raise ValueError("its program has letters that no network needs") from error
    return found, source, found.removeprefix("code/").removesuffix(".py").replace("/", ".")


def _written(parts: dict[str, bytes]) -> io.BytesIO:
    version = parts.get(".data/version", parts.get("version", b""))
    if not _VERSION.fullmatch(version) or parts.get("byteorder", b"little") != b"little":
        raise ValueError("its version, or the order of its bytes, is none that torch writes here")
    archive = io.BytesIO()
    writer = PyTorchFileWriter(archive, False)
    writer.set_min_version(int(version))
    for name, part in parts.items():
        if not name.endswith(_ORIGIN) and name not in _MADE_ANEW:
            writer.write_record(name, part, len(part))
    writer.write_end_of_file()
    archive.seek(0)
    return archive
