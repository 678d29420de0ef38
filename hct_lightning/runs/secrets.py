"""Secrets of a configuration: found by their names, and kept out of what is written and sent.

What holds one is readable by its owner alone: Hydra's files, and what Slurm is given, need it. Logs, `run.json` and
W&B show `***` instead.
"""

import logging
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

HIDDEN = "***"
_WORDS = "key|keys|token|pwd|auth|authorization|bearer|sig|signature"
_WITHIN = "secret|password|passwd|passphrase|credential|(api|access|private|secret|account|hf|auth)_?(key|token)"
# One of these words in a name, between dots, underscores and capitals: `api_key`, `HF_TOKEN`, `accessToken`, not
# `keep_memory` or `tokens`. Those that mean nothing else, anywhere.
_NAME = re.compile(rf"(^|[._-])({_WORDS})($|[._-])|{_WITHIN}", re.IGNORECASE)
_CAPITAL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_ENVIRONMENT = re.compile(r"(^|\.)slurm\.environment(\.|$)")
# In text: `name=value`, the value quoted, in brackets or a word; and what stands before the host in a url.
_ASSIGNED = re.compile(r"([\w.-]+)=('[^']*'|\"[^\"]*\"|\{[^}]*\}|\[[^]]*\]|[^\s,'\"\]}]+)")
_IN_URL = re.compile(r"(://)([^/\s]+)@")
_SHORTEST = 8  # characters of a value that is looked for in text: INFO or eth0 stands there for something else too

_values: set[str] = set()  # of this process's configuration


def is_secret(name: str) -> bool:
    """Whether what stands at this key of the configuration is a secret."""
    return bool(_NAME.search(_CAPITAL.sub("_", name)) or _ENVIRONMENT.search(name))


def hide(text: str) -> str:
    """The text without the secrets of this process's configuration, nor any that are assigned in it."""
    for value in sorted(_values, key=len, reverse=True):
        text = text.replace(value, HIDDEN)
    text = _IN_URL.sub(rf"\1{HIDDEN}@", text)
    return _ASSIGNED.sub(lambda found: f"{found[1]}={HIDDEN}" if is_secret(found[1]) else found[0], text)


def hide_in(value: Any, name: str = "") -> Any:
    """Plain containers without secrets, in their keys' names or in their text.

    Args:
        value: containers, or what is in them.
        name: the key at which it stands.
    """
    if isinstance(value, Mapping):
        return {key: hide_in(inner, f"{name}.{key}") for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [hide_in(inner, name) for inner in value]
    if value not in (None, "") and not isinstance(value, bool) and is_secret(name.lstrip(".")):
        return HIDDEN
    return hide(value) if isinstance(value, str) else value


def _found(value: Any, name: str = "") -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _found(inner, f"{name}.{key}")
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _found(inner, name)
    elif value not in (None, "") and not isinstance(value, bool) and is_secret(name.lstrip(".")):
        yield str(value)
    elif isinstance(value, str):
        yield from (found[2] for found in _IN_URL.finditer(value))


def learn(config: Mapping[str, Any]) -> None:
    """Finds the secrets of a configuration. If there are any, this process's files are its owner's from here on.

    Args:
        config: plain containers.
    """
    if found := set(_found(config)):
        os.umask(0o077)
        _values.update(value for value in found if len(value) >= _SHORTEST)
        _hide_in_logs()


def _hide_in_logs() -> None:
    make = logging.getLogRecordFactory()
    if getattr(make, "hides", False):
        return

    def factory(*args: Any, **options: Any) -> logging.LogRecord:
        record = make(*args, **options)
        record.msg, record.args = hide(record.getMessage()), ()
        return record

    factory.hides = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(factory)
