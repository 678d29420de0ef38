"""Validating a finished run, through the real command line."""

import json
import shutil

import pytest
import torch


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


def test_validate_leaves_the_runs_hydra_folder_alone(cli, trained):
    before = {p.name: p.read_bytes() for p in (trained / ".hydra").iterdir()}
    cli("task=validate", f"run={trained}", "data.resolution=256", cwd=trained.parent)
    assert {p.name: p.read_bytes() for p in (trained / ".hydra").iterdir()} == before
    result = json.loads((trained / "validate" / "best.json").read_text())
    assert result["resolution"] == [256, 256]


def test_validate_refuses_data_with_other_classes(cli, trained, photos):
    done = cli("task=validate", f"run={trained}", "data=folder", f"data.root={photos}", cwd=trained.parent, status=1)
    assert "the checkpoint was trained on dots, grid" in done.stderr


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
    assert (run / "run.json").read_bytes() == record
