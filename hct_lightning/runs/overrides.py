"""Overrides that a folder has recorded, read as they stand: nothing in them is replaced by what the environment says."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml


def read_overrides(file: Path, *path: str) -> list[str]:
    """The overrides that a YAML file lists, under the keys of `path`.

    Raises:
        ValueError: when the file is damaged.
    """
    found = read_yaml(file, *path)
    found = [] if found is None else found
    if not isinstance(found, list) or not all(isinstance(override, str) for override in found):
        raise ValueError(f"{file} is damaged: it is no list of overrides")
    return found


def without_slurm(overrides: Iterable[str]) -> list[str]:
    """The overrides that say what a run is, not how Slurm runs it."""
    return [override for override in overrides if not re.match(r"[+~]*slurm\b", str(override))]


def read_yaml(file: Path, *path: str) -> Any:
    """What a YAML file says under the keys of `path`: text stays text, whatever it looks like.

    Raises:
        ValueError: when the file is damaged.
    """
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
        for key in path:
            found = found[key]
    except (yaml.YAMLError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{file} is damaged: {reason}") from error
    return found
