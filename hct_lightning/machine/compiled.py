"""C++ of ours as a library, compiled when it is first needed, in seconds, and kept in the user's cache."""

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

log = logging.getLogger(__name__)

_OPTIONS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-pthread")


def compiled_library(folder: Traversable, main: str, headers: Sequence[str], without: str) -> ctypes.CDLL | None:
    """The library; None where it can't be made, and the log then says why.

    Args:
        folder: of the sources.
        main: the file that is compiled, `stem.cpp`.
        headers: that it includes, of that folder; those of `machine/cpp` are there for all.
        without: what is worse without it, for the log: `images are read slower than they could`.
    """
    shared = files("hct_lightning.machine") / "cpp"
    common = sorted((file for file in shared.iterdir() if file.is_file()), key=lambda file: file.name)
    content = b"".join(file.read_bytes() for file in (*(folder / name for name in (main, *headers)), *common))
    command = [*shlex.split(os.environ.get("CXX", "c++")), *_OPTIONS]
    try:
        compiler = subprocess.run([command[0], "--version"], check=True, capture_output=True).stdout
        parts = content, repr(command).encode(), platform.machine().encode(), compiler
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hct_lightning"
        kept = home / f"{Path(main).stem}-{hashlib.sha256(b''.join(parts)).hexdigest()[:16]}.so"
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        owner = home.stat()
        if owner.st_uid != os.getuid() or owner.st_mode & 0o022:
            raise OSError(f"others may write to {home}, from where it would be run")
        if not kept.is_file():
            with tempfile.TemporaryDirectory(dir=home) as making:  # several processes may do so at once
                made = Path(making) / kept.name
                sources = ["-I", str(shared), str(folder / main)]
                subprocess.run([*command, *sources, "-o", made], check=True, capture_output=True)
                made.replace(kept)
        return ctypes.CDLL(str(kept))
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").splitlines()
        why = next((line for line in said if "error: " in line), error)
        log.info("%s: %s could not compile %s: %s", without, command[0], main, why)
        return None
    except (OSError, RuntimeError) as error:  # RuntimeError: this user has no home
        missing = isinstance(error, FileNotFoundError) and error.filename == command[0]
        log.info("%s: %s%s", without, error, " (a C++ compiler is needed: g++)" if missing else "")
        return None
