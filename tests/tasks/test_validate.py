"""Validating a finished run, through the real command line."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch

from hct_lightning.data.catalogue import Catalogue, Split
from hct_lightning.models.streaming import InMemory
from hct_lightning.report.predictions import read_predictions
from hct_lightning.tasks.validate import Judged, accuracy_by, chosen_split, refuse_streaming


def test_nothing_is_no_validation(cli, trained, tmp_path):
    """A run that was trained without says so itself."""
    done = cli("task=validate", f"run={trained}", "trainer.limit_val_batches=0", cwd=tmp_path, status=1)
    assert done.stderr.splitlines()[-1] == (
        "error: trainer.limit_val_batches=0 validates nothing; give trainer.limit_val_batches=null"
    )
    done = cli("task=validate", f"run={trained}", "trainer.limit_val_batches=2", cwd=tmp_path, status=1)
    assert "error: trainer.limit_val_batches=2 would validate the first classes alone" in done.stderr


def test_validate_repeats_what_training_measured(cli, trained):
    done = cli("task=validate", f"run={trained}", "ckpt=last", cwd=trained.parent)
    result = json.loads((trained / "validate" / "last.json").read_text())
    record = json.loads((trained / "run.json").read_text())
    for name in ("accuracy", "auroc", "f1", "balanced_accuracy"):
        assert result["metrics"][f"val/{name}"] == record["metrics"][f"val/{name}"]
    confusion = torch.tensor(result["confusion"])
    assert confusion.sum() == 10
    assert confusion.diag().sum() / 10 == pytest.approx(result["metrics"]["val/accuracy"])
    assert "Confusion" in done.stdout
    found = read_predictions(trained / "validate" / "last.csv")
    assert found.accuracy == pytest.approx(result["metrics"]["val/accuracy"])
    assert all(found.thumbnail(row).exists() for row in found.worst())


def test_constants_in_the_place_of_attention(cli, trained):
    done = cli("task=validate", f"run={trained}", "ckpt=last", "validate.constant_attention=true", cwd=trained.parent)
    result = json.loads((trained / "validate" / "last.json").read_text())
    record = json.loads((trained / "run.json").read_text())
    assert result["metrics"]["val/accuracy"] == record["metrics"]["val/accuracy"]
    found = result["constant_attention"]
    names = [block["name"] for block in found["blocks"]]
    assert names == ["stages.3.0.attn", "stages.3.1.attn", "stages.4.0.attn", "stages.4.1.attn"]
    assert 0 < found["blocks"][0]["between_images"] < 1
    assert found["blocks"][3]["between_images"] == 1, "of 128 pixels one position is left"
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines()]
    for block in found["blocks"]:
        shares = (block["between_images"], 1 - block["between_images"])
        assert [block["name"], *(f"{share:.4f}" for share in shares)] in rows
    assert ["its own", f"{result['metrics']['val/accuracy']:.4f}", ""] in rows
    assert ["a constant", f"{found['accuracy']:.4f}", f"{found['same_answers']:.4f}"] in rows


def test_constants_are_for_images_that_are_not_streamed():
    image = InMemory(torch.zeros(3, 200, 300, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"an image of 300x200 pixels does not: raise validate\.max_memory_gb"):
        refuse_streaming(image)


def test_validate_leaves_the_runs_hydra_folder_alone(cli, trained):
    before = {p.name: p.read_bytes() for p in (trained / ".hydra").iterdir()}
    cli("task=validate", f"run={trained}", "ckpt=last", "data.resolution=256", cwd=trained.parent)
    assert {p.name: p.read_bytes() for p in (trained / ".hydra").iterdir()} == before
    result = json.loads((trained / "validate" / "last.json").read_text())
    assert result["resolution"] == [256, 256]


def test_validate_refuses_data_with_other_classes(cli, trained, photos):
    done = cli("task=validate", f"run={trained}", "data=folder", f"data.root={photos}", cwd=trained.parent, status=1)
    assert "the checkpoint was trained on dots, grid" in done.stderr


@pytest.mark.slow
def test_two_ranks_count_what_one_counts_and_unreadable_images_are_listed(cli, trained, pictures, tmp_path):
    """In batches of the memory plan; the run's own record stays as it is."""
    record = (trained / "run.json").read_bytes()
    run = shutil.copytree(trained, tmp_path / "run")
    for name in ("dots", "grid", "rings", "stripes"):
        for split, count in (("train", 2), ("valid", 3)):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for i in range(count):
                shutil.copy(pictures / "train" / "ab"[i % 2] / f"{i}.png", tmp_path / "data" / split / name)
    broken = tmp_path / "data" / "valid" / "grid" / "1.png"
    broken.write_bytes(broken.read_bytes()[:3000])
    command = ["task=validate", f"run={run}", "data=folder", f"data.root={tmp_path}/data", "data.on_error=skip"]
    command += ["validate.constant_attention=true"]
    found = []
    for options in (["micro_batches=4"], ["trainer.devices=2", "data.batch_size=3"]):
        done = cli(*command, *options, cwd=tmp_path)
        found.append(json.loads((run / "validate" / "best.json").read_text()))
        assert str(broken) in (run / "validate" / "skipped.csv").read_text()
        (run / "validate" / "skipped.csv").unlink()
    assert "on cpu x 2" in done.stderr
    assert found[0]["confusion"] == found[1]["confusion"]
    assert torch.tensor(found[0]["confusion"]).sum() == found[0]["images"] == 11
    assert found[0]["skipped"] == 1
    assert found[0]["metrics"] == pytest.approx(found[1]["metrics"], rel=1e-4)
    one, two = (result["constant_attention"] for result in found)
    assert one["blocks"][1]["between_images"] == pytest.approx(two["blocks"][1]["between_images"], rel=1e-3)
    assert (one["accuracy"], one["same_answers"]) == (two["accuracy"], two["same_answers"])
    assert (run / "run.json").read_bytes() == record


def test_a_test_split_by_the_columns_of_a_table(cli, trained, environment, tmp_path):
    """Scenes in a table: those of the valid folder are the test, of the others each second one validates."""
    images = sorted(Path(environment["HCT_DATA"]).glob("scenes/*128px*/*/*/*.jpg"))
    rows = [
        (path, path.parent.name, "test" if path.parts[-3] == "valid" else ("train", "valid")[i % 2], path.stem)
        for i, path in enumerate(images)
    ]
    lines = [",".join(map(str, row)) for row in [("path", "label", "split", "book"), *rows]]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    given = f"run={trained}", "data=csv", f"data.root={tmp_path}/list.csv", "validate.split=test", "validate.by=book"
    done = cli("task=validate", *given, cwd=trained.parent)
    result = json.loads((trained / "validate" / "best-test.json").read_text())
    with (trained / "validate" / "best-test.csv").open() as file:
        answers = list(csv.DictReader(file))
    tests = {str(path): (label, book) for path, label, side, book in rows if side == "test"}
    assert {row["path"]: (row["label"], row["book"]) for row in answers} == tests
    classes = result["classes"]
    for row in answers:
        probabilities = [float(row[f"p_{name}"]) for name in classes]
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)
        assert row["class"] == classes[probabilities.index(max(probabilities))]
    right = sum(row["class"] == row["label"] for row in answers)
    assert (result["split"], result["images"]) == ("test", len(tests))
    assert right == pytest.approx(result["metrics"]["val/accuracy"] * len(tests))
    parts = result["by"]["book"]["parts"]
    assert {(part["label"], part["value"]) for part in parts} == set(tests.values())
    assert sum(part["accuracy"] * part["images"] for part in parts) == pytest.approx(right)
    assert "By book" in done.stdout


def test_labels_and_groups_weigh_the_same_however_large():
    """Of label a a large book is right and a small one is not; of label b half of the only book."""
    said = [("a", "1", "a")] * 8 + [("a", "2", "b")] * 2 + [("b", "1", "b"), ("b", "1", "a")]
    # A column may have the name of what we say ourselves.
    found = accuracy_by("class", [Judged(label, cls, {"class": book}) for label, book, cls in said])
    assert found["mean"] == 0.5
    assert found["parts"] == [
        {"label": "a", "value": "1", "images": 8, "accuracy": 1.0},
        {"label": "a", "value": "2", "images": 2, "accuracy": 0.0},
        {"label": "b", "value": "1", "images": 2, "accuracy": 0.5},
    ]


def test_splits_and_columns_that_are_not_there_are_named():
    split = Split(["a"], [0], {"group": ["g"]})
    found = Catalogue("table", ("a", "b"), split, Split(["b"], [1]))
    assert chosen_split(found, "train", ["group"]) == split
    with pytest.raises(ValueError, match=r"validate\.split=test: table has train, valid"):
        chosen_split(found, "test", [])
    with pytest.raises(ValueError, match=r"validate\.by=book: the columns of table are group"):
        chosen_split(found, "train", ["group", "book"])
    with pytest.raises(ValueError, match=r"the columns of table are none; data=csv takes"):
        chosen_split(found, "valid", ["group"])
