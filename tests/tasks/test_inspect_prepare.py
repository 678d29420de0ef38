"""Looking at data and preparing it, through the real command line."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def pictures(photos, tmp_path) -> Path:
    """Two classes of 8 small photographs each, in train/ and valid/."""
    for n, photo in enumerate(sorted(photos.rglob("*.jpg"))[:2]):
        with Image.open(photo) as image:
            image = image.resize((256, 192))
        for i in range(8):
            path = tmp_path / "pictures" / ("train" if i < 6 else "valid") / "ab"[n] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.rotate(3 * i).save(path)
    return tmp_path / "pictures"


SMALL = ("data=folder", "data.root=pictures", "data.resolution=128", "data.batch_size=4")
BRIEF = ("trainer.max_epochs=1", "export=[]", "hydra.run.dir=run")


def test_inspect_tells_what_is_there_and_how_to_begin(cli, pictures, tmp_path):
    shutil.copy(pictures / "train/a/0.png", pictures / "valid/a/again.png")
    shutil.copy(pictures / "train/a/0.png", pictures / "train/a/again.png")
    (pictures / "train/b/3.png").write_bytes((pictures / "train/b/3.png").read_bytes()[:2000])
    done = cli("task=inspect", *SMALL, "data.srgb=true", "hydra.run.dir=run", cwd=tmp_path)
    out = tmp_path / "run" / "inspect"
    found = json.loads((out / "inspect.json").read_text())
    assert list(found["unreadable"]) == [str(pictures / "train/b/3.png")]
    assert [{Path(p).parent.parent.name for p in group} for group in found["duplicates"]] == [{"train", "valid"}]
    assert found["channels"] == {"3": 17}
    assert set(map(tuple, found["sizes"])) == {(192, 256)}
    # Mean and deviation, once more from their definition.
    paths = [p for p in sorted((pictures / "train").rglob("*.png")) if p.stem != "3" or "a" in p.parts]
    assert len(paths) == 12
    assert found["mean"] == pytest.approx(mean_of(paths), abs=0.01)
    with Image.open(out / "contact_sheet.png") as sheet:
        assert min(sheet.size) > 300
    assert "can't be read" not in done.stdout
    command = done.stdout.strip().splitlines()[-1]
    assert command.startswith("python -m hct_lightning data=folder data.root=pictures")
    assert "data.on_error=skip" in command
    assert "data.srgb=true" in command
    assert "data.resolution=192" in command
    cli(*command.split()[3:], *BRIEF, "trainer.max_steps=1", cwd=tmp_path)  # it really runs
    skipped = (tmp_path / "run" / "skipped.csv").read_text()
    assert str(pictures / "train/b/3.png") in skipped


def mean_of(paths: list[Path]) -> list[float]:
    """Of the centred squares, channel by channel."""
    squares = [np.asarray(Image.open(path).convert("RGB"))[:, 32:224] / 255 for path in paths]
    return np.mean(squares, axis=(0, 1, 2)).tolist()


def test_prepare_then_train_from_the_store(cli, pictures, tmp_path):
    done = cli("task=prepare", *SMALL, "prepare.output=store", "hydra.run.dir=p", cwd=tmp_path)
    assert done.stdout.strip() == f"python -m hct_lightning data=store data.root={tmp_path}/store"
    shutil.rmtree(pictures)  # the store stands alone
    store = ("data=store", "data.root=store", "data.batch_size=4")
    cli(*store, *BRIEF, "data.statistics=data", cwd=tmp_path)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["data"]["resolution"] == [128, 128]
    assert record["data"]["images"] == {"train": 12, "valid": 4}
    assert record["data"]["source"].startswith(f"store {tmp_path}/store (raw) of folder")
    assert record["data"]["mean"] != pytest.approx([0.485, 0.456, 0.406], abs=1e-4)
    for wrong, message in (
        ("data.resolution=256", r"store holds 128x128 images, of which data\.resolution=256x256"),
        ("data.geometry=paper", r"prepared with data\.geometry=cover, not paper"),
        ("data.channels=1", r"prepared with data\.channels=3, not 1"),
        ("data.window=[0,100]", r"prepared with data\.window=None, not"),
    ):
        done = cli(*store, wrong, "hydra.run.dir=wrong", cwd=tmp_path, status=1)
        assert re.search(message, done.stderr), done.stderr


def test_inspect_of_a_store_says_what_it_was_made_of(cli, pictures, tmp_path):
    cli("task=prepare", *SMALL, "prepare.output=store", "hydra.run.dir=p", cwd=tmp_path)
    done = cli("task=inspect", "data=store", "data.root=store", "hydra.run.dir=run", cwd=tmp_path)
    found = json.loads((tmp_path / "run" / "inspect" / "inspect.json").read_text())
    assert set(map(tuple, found["sizes"])) == {(192, 256)}
    assert (found["channels"], found["unreadable"]) == ({"3": 16}, {})
    command = done.stdout.strip().splitlines()[-1]
    assert command.startswith("python -m hct_lightning data=store data.root=store")
    cli(*command.split()[3:], *BRIEF, "trainer.max_steps=1", cwd=tmp_path)


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


def test_prepare_names_every_unreadable_file_and_goes_on_when_they_are_mended(cli, pictures, tmp_path):
    bad = [pictures / "train/a/1.png", pictures / "valid/b/7.png"]
    for path in bad:
        path.write_bytes(path.read_bytes()[:3000])
    args = ("task=prepare", *SMALL, "prepare.output=store", "hydra.run.dir=p")
    done = cli(*args, cwd=tmp_path, status=1)
    assert all(str(path) in done.stderr for path in bad)
    assert "2 unreadable images" in done.stderr
    assert "Traceback" not in done.stderr
    assert "is not complete" in cli("data=store", "data.root=store", cwd=tmp_path, status=1).stderr
    cli(*args, "data.on_error=skip", cwd=tmp_path)
    assert (tmp_path / "p" / "prepare" / "unreadable.csv").exists()
    assert len(list((tmp_path / "store").rglob("*.npy"))) == 14
