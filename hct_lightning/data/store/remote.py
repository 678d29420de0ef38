"""A store in an object store or on a web server, read through fsspec, as Lightning's own paths are.

What is read is copied to this machine first, whole, and stays there: the second epoch is as fast as from
a local store, and the images are the same bytes.
"""

import contextlib
import errno
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import fsspec

from hct_lightning.data.reading.image import UnreadableImageError
from hct_lightning.runs.files import open_whole, write_whole
from hct_lightning.runs.secrets import hide

_MANIFEST = 2**29  # bytes of store.json that are read: millions of images
_TRIES = 4  # a network fails now and then; after 1, 2 and 4 seconds


class _TooMuchError(Exception):
    """More comes than was asked for."""


class _AtMost(fsspec.Callback):
    """Ends a copy that becomes larger than it may be.

    Args:
        most: bytes.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def call(self, *args: Any, **options: Any) -> None:
        if self.value > self.most:  # bytes so far; the size that is announced may be that of a page which says 404
            raise _TooMuchError


def is_url(root: str | None) -> bool:
    return root is not None and "://" in root


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Says what helps where the cache is another user's, or on a disk that can't be written."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise OSError(
            f"{folder}: {error.strerror}, and not all of the store is there yet; give a cache of your own with "
            "data.cache=<folder>, or let its owner read the store once"
        ) from error


class Mirror:
    """A folder elsewhere, and the local one that holds what was read of it.

    Args:
        url: of the store, such as s3://bucket/store or https://host/store.
        cache: local folder. Each store has its own in there, named by its `store.json`: when that
            changes nothing of the old one is used. Users may share it, as far as the umask lets them.

    Attributes:
        folder: the local one; `store.json` is there.

    Raises:
        ValueError: when the store can't be reached, saying why.
    """

    def __init__(self, url: str, cache: str) -> None:
        self.url = hide(url.rstrip("/"))  # as it is shown and written down: there may be a password in it
        try:
            self.files, self.root = fsspec.core.url_to_fs(url.rstrip("/"))
            manifest = self._manifest()
        except _TooMuchError as error:
            raise ValueError(
                f"data.root={self.url}: store.json has more than the {_MANIFEST >> 20} MiB that are read of one; "
                "make smaller stores with task=prepare"
            ) from error
        except FileNotFoundError as error:
            raise ValueError(
                f"data.root={self.url}: there is no store.json; make a store with task=prepare and copy its folder there"
            ) from error
        except Exception as error:  # each protocol has its own, of packages that needn't be there
            raise ValueError(f"data.root={self.url} can't be read: {hide(str(error))}") from error
        name = hashlib.sha256(manifest).hexdigest()[:16]
        self.folder = Path(cache).expanduser().resolve() / name
        with _writing(self.folder):
            if not (self.folder / "store.json").is_file():  # else it is this one, maybe another user's
                self.folder.mkdir(parents=True, exist_ok=True)
                write_whole(self.folder / "store.json", manifest.decode())

    def _manifest(self) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "store.json"
            self.files.get_file(f"{self.root}/store.json", str(file), callback=_AtMost(_MANIFEST))
            if file.stat().st_size > _MANIFEST:  # of protocols that do not count
                raise _TooMuchError
            return file.read_bytes()

    def bring(self, file: str, size: int) -> None:
        """Copies a file here unless it is here already. Several threads and processes may ask.

        Args:
            file: relative to the store.
            size: its bytes.

        Raises:
            UnreadableImageError: when it is missing there, or of another size; of a larger one no more is taken.
            OSError: when the network or the disk fails.
        """
        target = self.folder / file
        with _writing(target.parent):
            if target.exists():
                return
            target.parent.mkdir(parents=True, exist_ok=True)
            with open_whole(target) as place:
                self._copy(file, place.name, size)  # fsspec takes a name, not a file
                got = os.path.getsize(place.name)
                if got != size:
                    raise UnreadableImageError(
                        f"{self.url}/{file}: {got} bytes where store.json says {size}; copy the store there again"
                    )

    def _copy(self, file: str, target: str, size: int) -> None:
        source = f"{self.url}/{file}"
        name = quote(file) if self.url.startswith(("http://", "https://")) else file  # `#` and `?` may be in a name
        for attempt in range(_TRIES):
            try:
                self.files.get_file(f"{self.root}/{name}", target, callback=_AtMost(size))
                return
            except _TooMuchError as error:
                raise UnreadableImageError(
                    f"{source}: more than the {size} bytes that store.json says; copy the store there again"
                ) from error
            except FileNotFoundError as error:
                raise UnreadableImageError(f"{source} is missing; copy the store there again") from error
            except Exception as error:
                if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                    raise OSError(
                        f"{self.folder}: the disk is full; give a larger one with data.cache=<folder>"
                    ) from error
                if attempt == _TRIES - 1:
                    raise OSError(f"{source}: {error or type(error).__name__}") from error
                time.sleep(2**attempt)
