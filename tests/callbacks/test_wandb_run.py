"""What an offline W&B run really holds, read back from its file."""

import json
import struct
from pathlib import Path

import pytest


def records(file: Path):
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
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # full, or the last part
            record = Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


SECRET = "canary-of-a-secret"


@pytest.fixture(scope="module")
def run(cli, tiny, tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("wandb")
    options = ("logger=wandb", "logger.wandb.mode=offline", "export=[torchscript_int8]", f"+mine.api_key={SECRET}")
    cli(*tiny, *options, f"hydra.run.dir={home}/run", cwd=home)
    return home / "run"


def read(run: Path):
    config, history, ids = {}, {}, set()
    for folder in sorted((run / "wandb").glob("offline-run-*")):
        for record in records(next(folder.glob("*.wandb"))):
            if record.run.run_id:
                ids.add(record.run.run_id)
            for update in (*record.run.config.update, *record.config.update):
                config[update.key or "/".join(update.nested_key)] = json.loads(update.value_json)
            for item in record.history.item:
                history.setdefault(item.key or "/".join(item.nested_key), []).append(json.loads(item.value_json))
    return config, history, ids


def test_configuration_curves_confusion_and_samples(run):
    config, history, ids = read(run)
    assert config["data"]["resolution"] == 128
    assert config["global_batch"] == 4
    assert config["optim"]["optimizer"]["_target_"] == "torch.optim.AdamW"
    assert len(history["val/accuracy"]) == 2
    assert history["lr-AdamW/pg1"][0] > 0
    charts = [key for key in history if key.startswith("val/confusion")]
    assert charts
    assert any(key.startswith("val/samples") for key in history)
    assert ids == {json.loads((run / "run.json").read_text())["id"]}
    tables = list(run.rglob("media/table/**/*.table.json"))
    samples = [json.loads(t.read_text()) for t in tables if "samples" in t.name]
    assert [len(t["data"]) for t in samples] == [10]
    assert samples[0]["columns"] == ["image", "label", "predicted", "probability"]


def test_a_secret_is_nowhere_but_in_hydras_files_which_are_their_owners(run):
    held = [path for path in run.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert {path.parent.name for path in held} == {".hydra"}
    assert not [path for path in held if path.stat().st_mode & 0o077]
    config, *_ = read(run)
    assert config["mine"]["api_key"] == "***"
    assert b"+mine.api_key=***" in next(run.rglob("*.wandb")).read_bytes(), "the command line is there without it"


def test_what_was_exported_and_what_it_costs(run):
    _, history, _ = read(run)
    metrics = json.loads((run / "artifacts/torchscript_int8/artifact.json").read_text())["metrics"]
    for key in ("time_ms", "accuracy", "accuracy_fp32", "agreement", "sqnr_db"):
        assert history[f"export/torchscript_int8/{key}"] == [metrics[key]]
    assert 0.5 < history["export/torchscript_int8/size_mb"][0] < 7


@pytest.mark.slow
def test_resumed_it_is_the_same_wandb_run(cli, run):
    cli(f"run={run}", "trainer.max_epochs=3", cwd=run.parent)
    assert len(list((run / "wandb").glob("offline-run-*"))) == 2
    _, history, ids = read(run)
    assert len(ids) == 1
    assert len(history["val/accuracy"]) == 3
