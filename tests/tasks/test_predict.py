"""Predicting with a finished run, through the real command line."""

import csv
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hct_lightning.data.inputs import find_images
from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.data.reading.geometry import apply
from hct_lightning.data.reading.image import read_image
from hct_lightning.data.reading.readers import FileReader
from hct_lightning.runs.predictions import Predictions
from hct_lightning.tasks.predict import show
from hct_lightning.training.checkpoints import load_network


def test_predict_gives_the_networks_probabilities(cli, trained, photos, tmp_path):
    files = find_images(str(photos), "predict.input")
    done = cli(
        "task=predict", f"run={trained}", f"predict.input={photos}", f"predict.output={tmp_path}/out.csv", cwd=tmp_path
    )
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["path"] for row in rows] == files
    assert (tmp_path / "out.csv").read_text() == done.stdout

    network, spec = load_network(trained / "checkpoints" / "best.ckpt")
    for row in rows:
        p = [float(row[f"p_{name}"]) for name in spec.classes]
        assert sum(p) == pytest.approx(1, abs=1e-4)
        assert row["class"] == spec.classes[p.index(max(p))]
    image = read_image(files[-1], Decoding(channels=3, size=None, geometry="cover", max_pixels=2**30))
    with torch.inference_mode():
        direct = network(apply(image, (128, 128), "cover")[None]).softmax(1)[0]
    assert p == pytest.approx(direct.tolist(), abs=0.03)  # trained and run in bf16 where there is


def test_an_artifact_of_the_run_predicts_as_the_checkpoint_does(cli, trained, photos, tmp_path):
    command = ["task=predict", f"run={trained}", f"predict.input={photos}", "predict.artifact=torchscript"]
    done = cli(*command, f"predict.output={tmp_path}/out.csv", cwd=tmp_path)
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["path"] for row in rows] == find_images(str(photos), "predict.input")
    network, spec = load_network(trained / "checkpoints" / "best.ckpt")
    pixels = FileReader(spec.decoding)(rows[0]["path"])[None]
    with torch.inference_mode():
        direct = network(pixels).softmax(1)[0]
    assert [float(rows[0][f"p_{name}"]) for name in spec.classes] == pytest.approx(direct.tolist(), abs=1e-4)
    assert not list(tmp_path.glob("*.unfinished"))
    done = cli(*command, "data.geometry=paper", cwd=tmp_path, status=1)
    assert 'data.geometry="paper": this artifact takes' in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_predict_finds_the_run_of_a_checkpoint(cli, trained, photos, tmp_path):
    file = next(photos.rglob("*.jpg"))
    checkpoint = trained / "checkpoints" / "last.ckpt"
    cli("task=predict", f"ckpt={checkpoint}", f"predict.input={file}", cwd=tmp_path)
    assert (trained / "predict" / "predictions.csv").exists()
    moved = tmp_path / "elsewhere.ckpt"
    shutil.copy(checkpoint, moved)
    cli(
        "task=predict",
        f"ckpt={moved}",
        f"predict.input={file}",
        f"predict.output={tmp_path}/moved.csv",
        "hydra.run.dir=here",
        cwd=tmp_path,
    )
    assert (tmp_path / "moved.csv").read_text() == (trained / "predict" / "predictions.csv").read_text()


def test_an_image_that_does_not_fit_is_streamed(cli, trained, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4000, 4500, 3), np.uint8)
    np.save(tmp_path / "large.npy", pixels)
    Image.fromarray(pixels[:200, :300]).save(tmp_path / "small.png")
    done = cli(
        "task=predict",
        f"run={trained}",
        f"predict.input=[{tmp_path}/large.npy,{tmp_path}/small.png]",
        "predict.resolution=native",
        "predict.max_memory_gb=2",
        f"predict.output={tmp_path}/out.csv",
        cwd=tmp_path,
    )
    assert "2 images at their own sizes on cpu x 1" in done.stderr
    assert "large.npy: 4500x4000 pixels do not fit into" in done.stderr
    assert "small.png: " not in done.stderr
    assert not list(tmp_path.glob("*.tiles*")), "what tiles gave is not needed any more"
    network, spec = load_network(trained / "checkpoints" / "best.ckpt")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    with torch.inference_mode():
        for row, part in zip(rows, (pixels, pixels[:200, :300]), strict=True):
            direct = network(torch.from_numpy(part).permute(2, 0, 1)[None]).softmax(1)[0]
            assert [float(row[f"p_{name}"]) for name in spec.classes] == pytest.approx(direct.tolist(), abs=0.03)


@pytest.fixture
def odd(photos, tmp_path) -> Path:
    """Eleven images, the seventh broken; names that are not easy."""
    (tmp_path / "odd").mkdir()
    files = find_images(str(photos), "predict.input")
    for i in range(11):
        name = os.fsencode(f"{i:02} [a], b") + b"\xff\n.jpg"
        shutil.copy(files[i % len(files)], tmp_path / "odd" / os.fsdecode(name))
    Path(find_images(str(tmp_path / "odd"), "predict.input")[6]).write_bytes(b"no image")
    return tmp_path / "odd"


def test_an_unreadable_image_is_named_and_what_was_done_is_kept(cli, trained, odd, tmp_path):
    """With data.on_error=skip it goes on there."""
    command = ["task=predict", f"run={trained}", f"predict.input={odd}", "data.batch_size=2"]
    done = cli(*command, f"predict.output={tmp_path}/one.csv", cwd=tmp_path, status=1)
    assert f"6 of 11 images are in {tmp_path}/one.csv; the same command goes on" in done.stderr
    assert "not an image" in done.stderr.splitlines()[-1]
    done = cli(*command, f"predict.output={tmp_path}/one.csv", "data.on_error=skip", cwd=tmp_path)
    assert "going on after 6 of 11 images" in done.stderr
    assert "1 of 11 images have no answer" in done.stderr
    one = (tmp_path / "one.csv").read_bytes()
    rows = list(csv.DictReader(io.StringIO(one.decode(errors="surrogateescape"), newline="")))
    assert [row["path"] for row in rows] == find_images(str(odd), "predict.input")
    assert [bool(row["class"]) for row in rows] == [not row["error"] for row in rows] == [i != 6 for i in range(11)]


def rows_of(file: Path) -> list[list[str]]:
    """The lines of a CSV file, the names of its columns first."""
    return list(csv.reader(io.StringIO(file.read_text(errors="surrogateescape"), newline="")))


@pytest.mark.slow
def test_two_ranks_write_what_one_writes_and_a_failure_on_one_ends_both(cli, trained, odd, tmp_path):
    record = (trained / "run.json").read_bytes()
    command = ["task=predict", f"run={trained}", f"predict.input={odd}", "data.batch_size=2"]
    cli(*command, f"predict.output={tmp_path}/one.csv", "data.on_error=skip", cwd=tmp_path)
    two = (*command, "trainer.devices=2", f"predict.output={tmp_path}/two.csv")
    done = cli(*two, cwd=tmp_path, status=1)
    assert "4 of 11 images are in" in done.stderr
    assert "not an image" in done.stderr.splitlines()[-1]
    done = cli(*two, "data.on_error=skip", cwd=tmp_path)
    assert "on cpu x 2" in done.stderr
    one, two = (rows_of(tmp_path / name) for name in ("one.csv", "two.csv"))
    assert [(row[:2], row[-1]) for row in two] == [(row[:2], row[-1]) for row in one]
    # Each rank has half the threads, so the last digits may differ.
    numbers = [[float(number) for row in rows[1:] for number in row[2:-1] if number] for rows in (one, two)]
    assert numbers[1] == pytest.approx(numbers[0], abs=2e-6)
    assert not list(tmp_path.glob("*.unfinished"))
    assert (trained / "run.json").read_bytes() == record, "the run itself is as it was"


@pytest.mark.slow
@pytest.mark.parametrize(("number", "devices"), [(signal.SIGKILL, 2), (signal.SIGINT, 1), (signal.SIGTERM, 2)])
def test_ended_in_the_middle_it_goes_on(cli, trained, environment, photos, tmp_path, number, devices):
    (tmp_path / "images").mkdir()
    for i in range(150):
        (tmp_path / "images" / f"{i:03}.jpg").symlink_to(find_images(str(photos), "predict.input")[i % 5])
    out = tmp_path / "out.csv"
    command = ["task=predict", f"run={trained}", f"predict.input={tmp_path}/images", f"predict.output={out}"]
    child = subprocess.Popen(
        [sys.executable, "-m", "hct_lightning", *command, f"trainer.devices={devices}"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not out.exists() or out.read_bytes().count(b"\n") < 10:
        assert child.poll() is None
        time.sleep(0.005)
    child.send_signal(number)
    _, err = child.communicate(timeout=60)
    assert child.returncode == {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}[number]
    assert number == signal.SIGKILL or "the same command goes on" in err
    before = out.read_bytes()
    rows = before.count(b"\n") - 1
    assert rows < 150, "it was through before: nothing is shown"
    done = cli(*command, cwd=tmp_path)
    assert f"going on after {rows} of 150 images" in done.stderr
    assert out.read_bytes().startswith(before)
    cli(*command[:-1], f"predict.output={tmp_path}/undisturbed.csv", cwd=tmp_path)
    assert out.read_bytes() == (tmp_path / "undisturbed.csv").read_bytes()


def test_the_table_on_a_terminal(monkeypatch, tmp_path, capsys):
    """Names that the table would take for markup, bytes that no terminal shows, more rows than people read."""
    names = ["[/a].png", os.fsdecode(b"\xff.png"), *(f"{i}.png" for i in range(60))]
    file = Predictions(tmp_path / "out.csv", names, ("[b]", "y"), {})
    file.open()
    file.append([file.row(names[0], None, "broken"), *(file.row(name, [0.25, 0.75]) for name in names[1:])])
    file.finish()
    monkeypatch.setattr("hct_lightning.tasks.predict.on_terminal", lambda _: True)
    show(file)
    out = capsys.readouterr().out
    for part in ("[/a].png", "no answer", "?.png", "[b]", "0.750", "and 12 more"):
        assert part in out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "predict.input is not set"),
        (("predict.input=x", "ckpt=third.ckpt"), "best, last"),
        (("predict.input=x", "predict.batch_size=0"), "predict.batch_size=0: give a whole number of at least 1"),
    ],
)
def test_predict_refuses(cli, trained, args, message):
    done = cli("task=predict", f"run={trained}", *args, cwd=trained.parent, status=1)
    assert message in done.stderr


def test_predict_says_where_it_pads(cli, trained, tmp_path):
    Image.new("RGB", (128, 128)).save(tmp_path / "small.png")
    args = ("task=predict", f"run={trained}", f"predict.input={tmp_path}", "data.geometry=paper")
    done = cli(*args, "predict.resolution=256", f"predict.output={tmp_path}/a.csv", cwd=tmp_path)
    assert "data.geometry=paper pads more than half of 1 of the 1 images looked at" in done.stderr
