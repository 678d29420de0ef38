"""Zip archives of strangers: what torch saves is one."""

import zipfile
from pathlib import Path


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
