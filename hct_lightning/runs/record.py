"""`run.json` as it is read: what others build on has the kind that it was written with."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**53


def _number(value: Any) -> bool:
    return type(value) in (int, float)


def _duration(value: Any) -> bool:
    return _number(value) and 0 <= value < math.inf


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _size(value: Any) -> bool:
    """Height and width, or null where every image keeps its own."""
    return value is None or (isinstance(value, list | tuple) and len(value) == 2 and all(map(_count, value)))


class _Whole(dict[Any, Any]):
    """All of its keys have to be there."""


_PARTS = _Whole.fromkeys(("load_s", "train_s", "wait_s", "run_s"), _duration)
# By field. A dictionary may have these keys, or any where `str` stands for them; a list any number of the same.
_SHAPE: dict[Any, Any] = {
    "id": lambda value: _text(value) and re.fullmatch(r"\w{1,64}", value),  # W&B names a folder by it
    "status": _text,
    "reason": _text,
    "created": _text,
    "started": _text,
    "seconds": _duration,
    "slurm": _Whole(job=_text, restarts=_count),
    "versions": {str: _text},
    "machine": _Whole(host=_text, system=_text, cpu=_text, cpus=_count, threads=_count),
    "paths": {str: _text},
    "overrides": [_text],
    "since": [_text],
    "options": {},
    "classes": [_text],
    "data": _Whole(
        source=_text,
        counts=_Whole(train={str: _count}),
        images=_Whole(train=_count, valid=_count),
        source_size=_Whole(smallest=[_count], largest=[_count]),
        decoding=_Whole(channels=_count, size=_size),
        notes=[_text],
    ),
    "precision": _text,
    "global_batch": lambda value: _count(value) and value > 0,
    "memory_plan": _Whole(ranks=_count, micro_batches=lambda value: _count(value) and value > 0, memory=_text),
    "network": {str: lambda value: value is None or _number(value)},
    "metrics": {str: _number},
    "confusion": [[_count]],
    "epoch_times": [_Whole(epoch=_count, images_s=_duration, ranks=[_PARTS], **_PARTS)],
}


def read_record(path: Path) -> dict[str, Any]:
    """What `run.json` says; empty where there is none.

    Raises:
        ValueError: when it is damaged, naming the field and its value.
    """
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it is no object")
        for field, value in found.items():
            if field in _SHAPE and value is not None:
                _check(value, _SHAPE[field], field)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}; remove it, and the run goes on without") from error
    return found


def accuracy_of(record: Mapping[str, Any]) -> float | None:
    """The best on validation images; the last, where another metric chose the checkpoint."""
    metrics = record.get("metrics") or {}
    return metrics.get("best", metrics.get("val/accuracy"))


def _check(value: Any, shape: Any, name: str) -> None:
    """Raises ValueError for the first value in a field that is of another kind than its shape says."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            raise ValueError(f"{name} is {value!r:.100}")
        if isinstance(shape, _Whole) and (missing := shape.keys() - value.keys()):
            raise ValueError(f"{name}.{min(missing)} is missing")
        for key, part in value.items():
            if inner := shape.get(key) or shape.get(str):
                _check(part, inner, f"{name}.{key:.100}")
    elif isinstance(shape, list):
        if not isinstance(value, list):
            raise ValueError(f"{name} is {value!r:.100}")
        for i, part in enumerate(value):
            _check(part, shape[0], f"{name}[{i}]")
    elif not shape(value):
        raise ValueError(f"{name} is {value!r:.100}")
