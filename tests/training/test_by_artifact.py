"""An artifact in the place of a checkpoint: found by name, held to its description, answering image by image."""

import csv
import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from hct_lightning.data.feeding.images import Images
from hct_lightning.data.reading.image import UnreadableImageError
from hct_lightning.data.reading.readers import FileReader, NativeReader
from hct_lightning.deploy import load_artifact
from hct_lightning.runs.predictions import Predictions
from hct_lightning.training import by_artifact
from hct_lightning.training.by_artifact import decoding_of, find_artifact, load_for_many, predict_all

RUN = Path(__file__).parents[1] / "formats" / "2026-11" / "run"
ARTIFACT = RUN / "artifacts" / "torchscript"


def test_an_artifact_is_found_by_its_name_or_folder(tmp_path):
    assert find_artifact(RUN, "torchscript") == ARTIFACT
    assert find_artifact(tmp_path, str(ARTIFACT)) == ARTIFACT
    with pytest.raises(ValueError, match=r"predict\.artifact=onnx: no artifact of this run \(it has torchscript\)"):
        find_artifact(RUN, "onnx")
    with pytest.raises(ValueError, match=r"\(it has none\)"):
        find_artifact(tmp_path, "torchscript")


def test_images_are_read_as_the_artifact_was_made_for():
    description = load_artifact(ARTIFACT).description
    made = decoding_of(description, {"num_workers": 3})
    assert made.as_json() == description["decoding"]
    with pytest.raises(ValueError, match=r'data\.geometry="paper": this artifact takes'):
        decoding_of(description, {"geometry": "paper"})
    fixed = description | {"input": description["input"] | {"max": [128, 128]}}
    with pytest.raises(ValueError, match=r"predict\.resolution=\[256, 256\]"):
        decoding_of(fixed, {"resolution": 256})
    opened = description | {"input": description["input"] | {"max": None}}
    assert decoding_of(opened, {"resolution": 256}).size == (256, 256)


@pytest.fixture(autouse=True)
def same_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def odd(tmp_path) -> list[str]:
    """Nine images, the fourth broken."""
    paths = [str(tmp_path / f"{i}.png") for i in range(9)]
    for i, path in enumerate(paths):
        Image.effect_noise((140, 150), 50 + 20 * i).convert("RGB").save(path)
    Path(paths[3]).write_bytes(b"no image")
    return paths


@pytest.mark.parametrize(("streams", "num_workers"), [(1, 0), (1, 2), (3, 1)])
def test_every_image_has_its_row_and_the_skipped_ones_their_reason(tmp_path, odd, streams, num_workers):
    artifact = load_artifact(ARTIFACT, threads=3, streams=streams)
    reader = FileReader(decoding_of(artifact.description, {}))
    file = Predictions(tmp_path / "out.csv", odd, artifact.classes, {})
    file.open()
    images = Images(odd, [0] * len(odd), reader, skipped={})
    predict_all(artifact, images, file, num_workers=num_workers)
    file.finish()
    with file.path.open() as text:
        rows = list(csv.DictReader(text))
    assert [row["path"] for row in rows] == odd
    assert [bool(row["error"]) for row in rows] == [path == odd[3] for path in odd]
    for row in rows[:3] + rows[4:]:
        found = torch.tensor([float(row[f"p_{name}"]) for name in artifact.classes])
        torch.testing.assert_close(found, artifact(reader(row["path"])[None])[0], rtol=0, atol=2e-6)
        assert row["class"] == artifact.classes[found.argmax()]
    assert json.dumps(rows[3]["p_dots"]) == '""'


def test_images_of_their_own_sizes(tmp_path):
    artifact = load_artifact(ARTIFACT)
    artifact.description["input"]["max"] = None
    paths = [str(tmp_path / f"{side}.png") for side in (200, 130, 160)]
    for path, side in zip(paths, (200, 130, 160), strict=True):
        Image.effect_noise((side, side + 20), 50).convert("RGB").save(path)
    reader = NativeReader(replace(decoding_of(artifact.description, {}), size=None))
    file = Predictions(tmp_path / "out.csv", paths, artifact.classes, {})
    file.open()
    predict_all(artifact, Images(paths, [0] * 3, reader), file, num_workers=2)
    file.finish()
    with file.path.open() as text:
        for row in csv.DictReader(text):
            found = torch.tensor([float(row[f"p_{name}"]) for name in artifact.classes])
            torch.testing.assert_close(found, artifact(reader(row["path"])[None])[0], rtol=0, atol=2e-6)


def test_an_image_that_can_not_be_read_ends_it_in_its_turn(tmp_path, odd):
    artifact = load_artifact(ARTIFACT, threads=2, streams=2)
    file = Predictions(tmp_path / "out.csv", odd, artifact.classes, {})
    file.open()
    images = Images(odd, [0] * len(odd), FileReader(decoding_of(artifact.description, {})))
    with pytest.raises(UnreadableImageError, match=odd[3]):
        predict_all(artifact, images, file, num_workers=2)
    assert file.done == 3
    file.close()


def test_what_torch_runs_is_loaded_once(monkeypatch):
    """Its threads are set; the same artifact serves one image and many."""
    loads = []
    monkeypatch.setattr(
        by_artifact, "load_artifact", lambda *given, **how: loads.append(how) or load_artifact(*given, **how)
    )
    reader = FileReader(decoding_of(load_artifact(ARTIFACT).description, {}))
    artifact = load_for_many(ARTIFACT, reader, 9, threads=4)
    assert (artifact.streams, len(loads), torch.get_num_threads()) == (4, 1, 1)


def test_machine_code_is_run_where_it_is_trusted(tmp_path):
    """What is no package stands for one, as in tests/deploy/test_trust.py."""
    other = shutil.copytree(ARTIFACT, tmp_path / "other")
    description = json.loads((other / "artifact.json").read_text())
    (other / "artifact.json").write_text(json.dumps(description | {"runtime": "aoti"}))
    reader = FileReader(decoding_of(load_artifact(ARTIFACT).description, {}))
    with pytest.raises(ValueError, match=r"model\.ts is machine code that you have not compiled here"):
        load_for_many(other, reader, 1)
    with pytest.raises(ValueError, match=r"was compiled |can't be loaded"):
        load_for_many(other, reader, 1, trust=True)


def test_as_many_at_a_time_as_there_are_threads_and_as_fit_the_memory(monkeypatch, caplog):
    """Each has its share of the threads."""
    reader = FileReader(decoding_of(load_artifact(ARTIFACT).description, {}))
    caplog.set_level(logging.INFO)
    for options, streams, threads in (
        ({"images": 9}, 4, 1),
        ({"images": 1}, 1, 4),
        ({"images": 9, "most": 2}, 2, 2),
    ):
        assert load_for_many(ARTIFACT, reader, threads=4, **options).streams == streams
        assert torch.get_num_threads() == threads
    assert not caplog.messages
    native = NativeReader(reader.decoding)
    assert load_for_many(ARTIFACT, native, 9, threads=4).streams == 1
    monkeypatch.setattr(by_artifact, "available_bytes", lambda *_: 0)
    assert load_for_many(ARTIFACT, reader, 9, threads=4).streams == 1
    assert torch.get_num_threads() == 4
    assert "1 images at a time, not 4: each takes" in caplog.text
