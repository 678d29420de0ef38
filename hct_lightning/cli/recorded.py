"""What is believed of a folder that says how its run, or its sweep, began.

The folder may be a stranger's. What it says of data, network and training is taken as it stands. What could run a
program, send something somewhere or write outside of the folder is not.
"""

import re
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, QuotedString
from hydra.errors import HydraException

# The first part of a key. Not here: hydra, safety, slurm, and the options of other verbs than fit.
_GROUPS = {
    "callbacks",
    "compile",
    "data",
    "debug",
    "drop_path_rate",
    "experiment",
    "export",
    "fit",
    "gradients",
    "local",
    "logger",
    "loss",
    "memory",
    "micro_batches",
    "model",
    "optim",
    "pretrain",
    "recipe",
    "runtime",
    "schedule",
    "seed",
    "sweeps",
    "trainer",
}
_OF_LOGGERS = {"group", "log_model", "mode", "name", "notes", "project", "tags", "version"}
_READ_ONLY = {"data.root", "fit.against"}  # they may name any place: nothing but what belongs there is written
# Options that name a place, an account or a server, and Hydra's arguments without a name.
_PLACE = re.compile(r"(^_args_|dir|path|cache|folder|output|uri|url|host|registry|workspace|entity|settings)$")
# Of urls those of object stores and web servers alone: fsspec knows protocols that run programs, or write.
_REMOTE = re.compile(r"(s3a?|gs|gcs|az|abfss?|https?|hf)://[^:]*(:\d+[^:]*)?")
_ELSEWHERE = re.compile(r"^[/~]|(^|/)\.\.(/|$)|://")
_MANY = re.compile(r"(devices|nodes|workers|threads|prefetch_factor)$")  # options that begin processes, or fill memory
_MOST = 256  # of those
_CHOICE = re.compile(r"[\w\-+., \[\](){}:'\"=]*")  # no slash: a group's file is one of the group's folder


def values_of(override: str) -> list[str]:
    """What an override gives its option, as texts: several where it is swept over a list; none where it is no text."""
    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException:
        return []
    value = parsed._value
    every = value.list if isinstance(value, ChoiceSweep) else [value]
    return [_text(one) for one in every] if all(isinstance(one, str | QuotedString) for one in every) else []


def is_believed(override: str) -> bool:
    """Whether an override that a folder recorded is taken from there."""
    if "$" in override:  # it would be replaced by what this machine's environment says
        return False
    try:
        parsed = OverridesParser.create().parse_override(override)
    except (HydraException, RecursionError):
        return False
    key = parsed.key_or_group
    names = key.split(".")
    if parsed.package or not re.fullmatch(r"[\w.\-]+", key) or names[0] not in _GROUPS:
        return False
    if len(names) == 1 and not _CHOICE.fullmatch(override.partition("=")[2]):
        return False
    if names[0] == "logger" and len(names) > 1 and (len(names) != 3 or names[2] not in _OF_LOGGERS):
        return False
    if key in _READ_ONLY:
        place = _text(parsed.value()) if not parsed.is_sweep_override() else override
        return "::" not in place and ("://" not in place or _REMOTE.fullmatch(place) is not None)
    keys, values = [*names], [] if parsed.is_delete() else [parsed._value]
    while values:
        value = values.pop()
        if isinstance(value, ChoiceSweep):
            values += value.list
        elif isinstance(value, dict):
            keys += map(_text, value)
            values += value.values()
        elif isinstance(value, list):
            values += value
        elif _ELSEWHERE.search(_text(value)) or (_MANY.search(key) and _is_many(value)):
            return False
    return not any(_PLACE.search(key) or _ELSEWHERE.search(key) for key in keys)


def _is_many(value: Any) -> bool:
    return any(int(number[:9]) > _MOST for number in re.findall(r"\d+", _text(value)))


def _text(value: Any) -> str:
    return value.text if isinstance(value, QuotedString) else str(value)
