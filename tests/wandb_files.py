"""What an offline W&B run really holds, read back from its files."""

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def records(file: Path) -> Iterator[Any]:
    """The records of a .wandb file: a header, then LevelDB log records in blocks of 32 KiB."""
    from wandb.proto.wandb_internal_pb2 import Record

    data = file.read_bytes()
    assert data[:4] == b":W&B"
    position, parts = 7, b""
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        if position + 7 + length > len(data):
            break  # it is being written
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # full, or the last part
            record = Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def pieces(run: Path) -> list[list[Any]]:
    """The records of each process that wrote to a run's folder, the earliest first.

    `wandb.finish` returns before the process that writes the file has written all of it; `exit` is the last record.
    """
    found = []
    for folder in sorted((run / "wandb").glob("offline-run-*")):
        file = next(folder.glob("*.wandb"))
        given_up = time.monotonic() + 20
        while not any(record.HasField("exit") for record in records(file)):
            assert time.monotonic() < given_up, f"{file} has no end"
            time.sleep(0.1)
        found.append(list(records(file)))
    return found


def read(run: Path) -> tuple[dict[str, Any], dict[str, list[Any]], set[str]]:
    """Configuration, values by key in the order in which they were logged, and the ids of the runs."""
    config, history, ids = {}, {}, set()
    for record in (record for piece in pieces(run) for record in piece):
        if record.run.run_id:
            ids.add(record.run.run_id)
        for update in (*record.run.config.update, *record.config.update):
            config[update.key or "/".join(update.nested_key)] = json.loads(update.value_json)
        for item in record.history.item:
            history.setdefault(item.key or "/".join(item.nested_key), []).append(json.loads(item.value_json))
    return config, history, ids
