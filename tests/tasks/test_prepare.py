"""Preparing data and training from the store, through the real command line."""

import json
import shlex
import shutil

import pytest

SMALL = ("data=folder", "data.root=pictures", "data.resolution=128", "data.batch_size=4")
BRIEF = ("trainer.max_epochs=1", "export=[]", "hydra.run.dir=run")


def test_prepare_then_train_from_the_store(cli, pictures, tmp_path):
    done = cli("task=prepare", *SMALL, "prepare.output=store", "hydra.run.dir=p", cwd=tmp_path)
    assert done.stdout.strip() == f"python -m hct_lightning data=store data.root={tmp_path}/store"
    done = cli("task=prepare", *SMALL, 'prepare.output="my store (1), new"', "hydra.run.dir=q", cwd=tmp_path)
    command = shlex.split(done.stdout)
    assert command[:3] == ["python", "-m", "hct_lightning"]
    cli("task=inspect", *command[3:], "hydra.run.dir=r", cwd=tmp_path)
    shutil.rmtree(pictures)  # the store stands alone
    store = ("data=store", "data.root=store", "data.batch_size=4")
    cli(*store, *BRIEF, "data.statistics=data", cwd=tmp_path)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["data"]["decoding"]["size"] == [128, 128]
    assert record["data"]["images"] == {"train": 12, "valid": 4}
    assert record["data"]["source"].startswith(f"store {tmp_path}/store (raw) of folder")
    assert record["data"]["mean"] != pytest.approx([0.485, 0.456, 0.406], abs=1e-4)
    done = cli(*store, "data.geometry=paper", "hydra.run.dir=wrong", cwd=tmp_path, status=1)
    assert "prepared with data.geometry=cover, not paper" in done.stderr


@pytest.mark.slow
def test_training_from_a_store_ends_bitwise_where_training_from_files_ends(cli, pictures, tmp_path):
    import torch

    cli("task=prepare", *SMALL, "prepare.output=store", "hydra.run.dir=p", cwd=tmp_path)
    brief = ("trainer.max_epochs=1", "export=[]", "data.batch_size=4")
    cli(*SMALL, *brief, "hydra.run.dir=files", cwd=tmp_path)
    cli("data=store", "data.root=store", *brief, "hydra.run.dir=store_run", cwd=tmp_path)
    a, b = (
        torch.load(tmp_path / run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for run in ("files", "store_run")
    )
    assert not [key for key in a if not torch.equal(a[key], b[key])]


@pytest.mark.slow
def test_prepare_names_every_unreadable_file_and_goes_on_when_they_are_mended(cli, pictures, tmp_path):
    bad = [pictures / "train/a/1.png", pictures / "valid/b/7.png"]
    for path in bad:
        path.write_bytes(path.read_bytes()[:3000])
    bad.append(pictures / "train/a/0.png")  # its head is among those that are looked at first
    bad[-1].write_text("<html>")
    args = ("task=prepare", *SMALL, "prepare.output=store", "hydra.run.dir=p")
    done = cli(*args, cwd=tmp_path, status=1)
    assert all(str(path) in done.stderr for path in bad)
    assert "3 unreadable images" in done.stderr
    assert "Traceback" not in done.stderr
    assert "is not complete" in cli("data=store", "data.root=store", cwd=tmp_path, status=1).stderr
    cli(*args, "data.on_error=skip", cwd=tmp_path)
    assert (tmp_path / "p" / "prepare" / "unreadable.csv").exists()
    assert len(list((tmp_path / "store").rglob("*.npy"))) == 13
