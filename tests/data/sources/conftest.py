"""Sources look at names alone: empty files will do."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from hct_lightning.data.catalogue import Split


@pytest.fixture
def plant() -> Callable[..., Path]:
    """Makes a folder a class with so many files."""

    def plant(root: Path, **counts: int) -> Path:
        for name, count in counts.items():
            (root / name).mkdir(parents=True)
            for i in range(count):
                (root / name / f"{i}.jpg").touch()
        return root

    return plant


@pytest.fixture
def names() -> Callable[[Split, Path], list[str]]:
    """The files of a split, as seen from a folder."""
    return lambda split, root: [Path(path).relative_to(root).as_posix() for path in split.paths]


@pytest.fixture
def make_repository() -> Callable[[Path, dict[str, bytes]], Path]:
    """Makes a git repository with files, all in one commit."""

    def make(root: Path, contents: dict[str, bytes]) -> Path:
        for path, content in contents.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)
        author = ("-c", "user.name=a", "-c", "user.email=a@localhost", "-c", "core.autocrlf=false")
        for command in (("init", "--quiet"), ("add", "."), (*author, "commit", "--quiet", "--message=files")):
            subprocess.run(["git", *command], cwd=root, check=True)
        return root

    return make
