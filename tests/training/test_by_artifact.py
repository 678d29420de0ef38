"""An artifact in the place of a checkpoint: found by name, held to its description, answering image by image."""

import csv
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from hct_lightning.data.feeding.loader import Images
from hct_lightning.data.reading.readers import FileReader
from hct_lightning.deploy import load_artifact
from hct_lightning.runs.predictions import Predictions
from hct_lightning.training.by_artifact import decoding_of, find_artifact, predict_all

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


@pytest.mark.parametrize(("batch_size", "num_workers"), [(1, 0), (2, 1)])
def test_every_image_has_its_row_and_the_skipped_ones_their_reason(tmp_path, batch_size, num_workers):
    artifact = load_artifact(ARTIFACT)
    paths = [str(tmp_path / f"{i}.png") for i in range(5)]
    for i, path in enumerate(paths):
        Image.effect_noise((140, 150), 50 + 20 * i).convert("RGB").save(path)
    Path(paths[3]).write_bytes(b"no image")
    reader = FileReader(decoding_of(artifact.description, {}))
    file = Predictions(tmp_path / "out.csv", paths, artifact.classes, {})
    file.open()
    images = Images(paths, [0] * 5, reader, skipped={})
    predict_all(artifact, images, file, batch_size=batch_size, num_workers=num_workers, prefetch_factor=2)
    file.finish()
    with file.path.open() as text:
        rows = list(csv.DictReader(text))
    assert [row["path"] for row in rows] == paths
    assert [bool(row["error"]) for row in rows] == [False, False, False, True, False]
    for row in (rows[0], rows[4]):
        found = torch.tensor([float(row[f"p_{name}"]) for name in artifact.classes])
        torch.testing.assert_close(found, artifact(reader(row["path"])[None])[0], rtol=0, atol=2e-6)
        assert row["class"] == artifact.classes[found.argmax()]
    assert json.dumps(rows[3]["p_dots"]) == '""'
