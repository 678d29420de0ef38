"""Looking at data, through the real command line."""

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SMALL = ("data=folder", "data.root=pictures", "data.resolution=128", "data.batch_size=4")
BRIEF = ("trainer.max_epochs=1", "export=[]", "hydra.run.dir=run")


def test_inspect_tells_what_is_there_and_how_to_begin(cli, pictures, tmp_path):
    shutil.copy(pictures / "train/a/0.png", pictures / "valid/a/again.png")
    shutil.copy(pictures / "train/a/0.png", pictures / "train/a/again.png")
    (pictures / "train/b/3.png").write_bytes((pictures / "train/b/3.png").read_bytes()[:2000])
    options = ("data=folder", "data.root=pictures", "data.srgb=true", "data.split_seed=3", "seed=7")
    done = cli("task=inspect", *options, "inspect.samples=20", "hydra.run.dir=run", cwd=tmp_path)
    out = tmp_path / "run" / "inspect"
    found = json.loads((out / "inspect.json").read_text())
    assert list(found["unreadable"]) == [str(pictures / "train/b/3.png")]
    assert [{Path(p).parent.parent.name for p in group} for group in found["duplicates"]] == [{"train", "valid"}]
    assert found["channels"] == {"3": 17}
    assert set(map(tuple, found["sizes"])) == {(192, 256)}
    assert {"nothing", "mean and deviation", "reduced to 32x32"} < {row["knows"] for row in found["shortcuts"]}
    assert "Accuracy on the validation images of who sees no detail" in done.stdout
    # Mean and deviation, once more from their definition.
    paths = [p for p in sorted((pictures / "train").rglob("*.png")) if p.stem != "3" or "a" in p.parts]
    assert len(paths) == 12
    assert found["mean"] == pytest.approx(mean_of(paths), abs=0.01)
    with Image.open(out / "contact_sheet.png") as sheet:
        assert min(sheet.size) > 300
    assert "can't be read" not in done.stdout
    command = done.stdout.strip().splitlines()[-1]
    assert command.startswith(f"python -m hct_lightning {' '.join(options)} ")
    assert "inspect" not in command
    assert "data.on_error=skip" in command
    assert "data.resolution=192" in command
    cli(*shlex.split(command)[3:], *BRIEF, "trainer.max_steps=1", cwd=tmp_path)  # it really runs
    skipped = (tmp_path / "run" / "skipped.csv").read_text()
    assert str(pictures / "train/b/3.png") in skipped


@pytest.mark.slow
def test_images_smaller_than_the_network_takes_are_enlarged(cli, tmp_path):
    for i in range(8):
        (tmp_path / "tiny" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (i, 9, 9)).save(tmp_path / "tiny" / "ab"[i % 2] / f"{i}.png")
    done = cli("task=inspect", "data=folder", "data.root=tiny", "hydra.run.dir=run", cwd=tmp_path)
    assert "data.resolution=128" in done.stdout.strip().splitlines()[-1]


@pytest.mark.slow
def test_a_window_is_suggested_and_looked_with(cli, tmp_path):
    """12 bits in 16: without a window the network would see black, and its mean would hide it."""
    rng = np.random.default_rng(0)
    for i in range(8):
        (tmp_path / "scans" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        values = rng.integers(500, 4001, (140, 140), dtype=np.uint16)
        values[0, :2] = 500, 4000
        Image.fromarray(values).save(tmp_path / "scans" / "ab"[i % 2] / f"{i}.png")
    done = cli("task=inspect", "data=folder", "data.root=scans", "hydra.run.dir=run", cwd=tmp_path)
    assert "values are 500..4000 of 0..65535: give data.window=[500,4000]" in done.stdout + done.stderr
    command = done.stdout.strip().splitlines()[-1]
    assert "data.window=[500,4000]" in shlex.split(command)
    found = json.loads((tmp_path / "run" / "inspect" / "inspect.json").read_text())
    assert found["mean"] == pytest.approx([0.5], abs=0.01)
    given = ("data.root=scans", "data.window=null")
    done = cli("task=inspect", "data=folder", *given, "hydra.run.dir=kept", cwd=tmp_path)
    assert "data.window=null" in done.stdout.strip().splitlines()[-1]
    found = json.loads((tmp_path / "kept" / "inspect" / "inspect.json").read_text())
    assert found["mean"] == pytest.approx([2250 / 65535], abs=0.01)


def mean_of(paths: list[Path]) -> list[float]:
    """Of the centred squares, channel by channel."""
    squares = [np.asarray(Image.open(path).convert("RGB"))[:, 32:224] / 255 for path in paths]
    return np.mean(squares, axis=(0, 1, 2)).tolist()


@pytest.mark.slow
def test_inspect_of_a_store_says_what_it_was_made_of(cli, pictures, tmp_path):
    cli("task=prepare", *SMALL, "prepare.output=store", "hydra.run.dir=p", cwd=tmp_path)
    done = cli("task=inspect", "data=store", "data.root=store", "hydra.run.dir=run", cwd=tmp_path)
    found = json.loads((tmp_path / "run" / "inspect" / "inspect.json").read_text())
    assert set(map(tuple, found["sizes"])) == {(192, 256)}
    assert {"nothing", "mean and deviation", "reduced to 32x32"} < {row["knows"] for row in found["shortcuts"]}
    assert "Accuracy on the validation images of who sees no detail" in done.stdout
    assert (found["channels"], found["unreadable"]) == ({"3": 16}, {})
    command = done.stdout.strip().splitlines()[-1]
    assert command.startswith("python -m hct_lightning data=store data.root=store")


def test_what_was_given_is_what_is_looked_at_and_kept(cli, pictures, tmp_path):
    given = (*SMALL, "data.mean=[0.5,0.5,0.5]", "data.limit=8", "trainer.max_epochs=-1")
    done = cli("task=inspect", *given, "hydra.run.dir=run", cwd=tmp_path)
    command = shlex.split(done.stdout.strip().splitlines()[-1])[3:]
    assert [option for option in command if option.split("=")[0] in {o.split("=")[0] for o in given}] == [*given]
    assert sum(option.startswith("data.std=") for option in command) == 1
    found = json.loads((tmp_path / "run" / "inspect" / "inspect.json").read_text())
    assert found["store_gb"] == pytest.approx((8 + 4) * 128 * 128 * 3 / 1e9)
    assert found["hours_on_this_cpu"] is None  # of no known number of epochs
