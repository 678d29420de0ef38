"""The card beside an artifact: what hubs read of it, and what it does not tell."""

import json
import shutil

import pytest
from huggingface_hub import ModelCard

from hct_lightning.machine.facts import machine_facts
from hct_lightning.report.card import without_folders, write_card
from hct_lightning.report.page import markdown_text

MODEL = {"_target_": "hct_lightning.models.HCT"}


@pytest.fixture
def artifact(full_run):
    """An artifact of a run that has everything; its decoding and runtime are those of a real one."""
    folder = full_run / "artifacts" / "openvino_int8"
    about = json.loads((folder / "artifact.json").read_text())
    about["decoding"] = {"channels": 3, "size": [64, 96]}
    (folder / "artifact.json").write_text(json.dumps(about))
    return folder


def test_a_hub_reads_licence_library_data_and_figures(artifact, full_run):
    write_card(artifact, full_run, model=MODEL, license="cc-by-4.0")
    card = ModelCard.load(artifact / "README.md").data
    assert (card.license, card.library_name, card.pipeline_tag) == (
        "cc-by-4.0",
        "hct-lightning",
        "image-classification",
    )
    assert card.datasets == ["folder-photos"]
    assert {"hct", "openvino", "int8"} <= set(card.tags)
    (result,) = card.eval_results
    assert (result.metric_type, result.metric_value) == ("accuracy", 0.8)


def test_people_read_figures_data_and_limits_and_nothing_of_the_machine(artifact, full_run):
    write_card(artifact, full_run, model=MODEL, license=None)
    text = (artifact / "README.md").read_text()
    for said in (
        "# HCT, 3 classes, 64x96 pixels",
        "| Accuracy | 80.0% of 6 validation images |",
        "| Its 95 % interval | 40.7% to 95.9% |",
        f"| Time of one image | 20.0 ms on {markdown_text(machine_facts()['cpu'])}, ",
        "folder photos: 12 images to train, 6 to validate",
        "| &lt;b&gt;owl&lt;/b&gt; | 4 |",
        "license: unknown",
        "None has been chosen",
        "## Limitations",
    ):
        assert said in text, said
    assert str(full_run) not in text
    assert "/photos" not in text
    assert "timm" not in text


def test_it_says_how_timm_loads_it(artifact, full_run):
    about = json.loads((artifact / "artifact.json").read_text())
    (artifact / "artifact.json").write_text(json.dumps(about | {"runtime": "timm"}))
    write_card(artifact, full_run, model={"_target_": "timm.create_model", "model_name": "resnet18"}, license=None)
    assert ModelCard.load(artifact / "README.md").data.library_name == "timm"
    text = (artifact / "README.md").read_text()
    assert 'timm.create_model("local-dir:FOLDER", pretrained=True)' in text
    assert "# resnet18, 3 classes" in text


def test_without_a_record_it_says_so(artifact, tmp_path):
    about = json.loads((artifact / "artifact.json").read_text())
    about["metrics"] = {"time_ms": 3.0}
    (artifact / "artifact.json").write_text(json.dumps(about))
    moved = shutil.copytree(artifact, tmp_path / "alone")
    write_card(moved, tmp_path, model=MODEL, license=None)
    text = (moved / "README.md").read_text()
    assert "Nothing is recorded of the data" in text
    assert "Accuracy" not in text.partition("## Limitations")[0]
    assert ModelCard.load(moved / "README.md").data.datasets is None


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("folder /home/me/my photos", "folder my photos"),
        ("folder /photos", "folder photos"),
        ("scenes (drawn, 512 px, seed 0) /data/scenes/a", "scenes (drawn, 512 px, seed 0) a"),
    ],
)
def test_where_the_data_lies_is_not_told(source, said):
    assert without_folders(source) == said
