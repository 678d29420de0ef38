"""What run.json says is of the kind that it was written with, or the field is named."""

import json

import pytest

from hct_lightning.runs.record import accuracy_of, read_record

SOUND = {
    "id": "9fb81e59",
    "status": "completed",
    "reason": None,
    "slurm": None,
    "paths": {"data.root": "/photos"},
    "since": ["optim.lr=0.1"],
    "data": {
        "source": "photos",
        "images": {"train": 24, "valid": 3},
        "counts": {"train": {"a": 24}},
        "source_size": {"smallest": [9, 9], "largest": [9, 9]},
        "decoding": {"channels": 3, "size": [64, 64]},
        "notes": [],
    },
    "global_batch": 4,
    "memory_plan": {"ranks": 1, "micro_batches": 1, "memory": "speed", "maps_blocks": False},
    "metrics": {"val/accuracy": float("nan"), "best": 1},
    "confusion": [[3, 0], [1, 2]],
    "epoch_times": [
        {"epoch": 0, "images_s": 9.5, "ranks": [dict.fromkeys(("load_s", "train_s", "wait_s", "run_s"), 1)]}
        | dict.fromkeys(("load_s", "train_s", "wait_s", "run_s"), 1.5)
    ],
    "something": {"of": "a later version"},
}


def test_a_sound_one_is_read_as_it_is(tmp_path):
    file = tmp_path / "run.json"
    assert read_record(file) == {}
    file.write_text(json.dumps(SOUND))
    assert repr(read_record(file)) == repr(SOUND)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("id", "../../../evil", "id is '../../../evil'"),
        ("id", "a\n", r"id is 'a\n'"),
        ("since", ["a=1", 2], "since[1] is 2"),
        ("since", "optim.lr=1", "since is 'optim.lr=1'"),
        ("paths", {"data.root": None}, "paths.data.root is None"),
        ("global_batch", 0, "global_batch is 0"),
        ("global_batch", True, "global_batch is True"),
        ("global_batch", 10**400, "global_batch is 1000"),
        ("memory_plan", {"ranks": 1, "memory": "speed"}, "memory_plan.micro_batches is missing"),
        ("memory_plan", {"ranks": "1", "memory": "speed", "micro_batches": 1}, "memory_plan.ranks is '1'"),
        ("metrics", {"best": "high"}, "metrics.best is 'high'"),
        ("metrics", [], "metrics is []"),
        ("data", SOUND["data"] | {"images": {"train": -1, "valid": 3}}, "data.images.train is -1"),
        ("data", SOUND["data"] | {"counts": {"train": ["a"]}}, "data.counts.train is ['a']"),
        ("data", SOUND["data"] | {"decoding": {"size": [1]}}, "data.decoding.channels is missing"),
        ("epoch_times", [{"epoch": 0}], "epoch_times[0].images_s is missing"),
        ("epoch_times", [SOUND["epoch_times"][0] | {"run_s": -1}], "epoch_times[0].run_s is -1"),
        ("confusion", [[0.5]], "confusion[0][0] is 0.5"),
    ],
)
def test_a_changed_value_is_named(tmp_path, field, value, said):
    file = tmp_path / "run.json"
    file.write_text(json.dumps(SOUND | {field: value}))
    with pytest.raises(ValueError) as refused:  # noqa: PT011, the whole text is looked at
        read_record(file)
    assert str(refused.value).startswith(f"{file} is damaged: {said}")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": ' * 100_000, "\ud800", "1" * 5000])
def test_what_is_no_record_at_all_is_named(tmp_path, text):
    file = tmp_path / "run.json"
    file.write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(ValueError, match=r"run\.json is damaged: .*; remove it, and the run goes on without"):
        read_record(file)


@pytest.mark.parametrize(
    ("record", "accuracy"),
    [
        ({"metrics": {"best": 0.9, "val/accuracy": 0.8}}, 0.9),
        ({"metrics": {"val/accuracy": 0.8}}, 0.8),
        ({"metrics": None}, None),
        ({}, None),
    ],
)
def test_the_accuracy_of_a_run(record, accuracy):
    assert accuracy_of(record) == accuracy
