"""Predicting with a finished run, through the real command line."""

import csv
import io
import shutil

import pytest
import torch
from PIL import Image

from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.data.reading.geometry import apply
from hct_lightning.data.reading.image import read_image
from hct_lightning.tasks.predict import find_images
from hct_lightning.training.checkpoints import load_network


def test_inputs_are_a_file_a_folder_or_a_glob(photos):
    files = sorted(str(p) for p in photos.rglob("*.jpg"))
    assert find_images(files[0]) == files[:1]
    assert find_images(str(photos)) == files
    assert find_images(f"{photos}/**/*.jpg") == files
    with pytest.raises(FileNotFoundError, match="no image there"):
        find_images(f"{photos}/nothing*.png")


def test_predict_gives_the_networks_probabilities(cli, trained, photos, tmp_path):
    files = find_images(str(photos))
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


def test_predict_says_which_file_is_broken(cli, trained, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    done = cli("task=predict", f"run={trained}", f"predict.input={tmp_path}", cwd=tmp_path, status=1)
    assert "broken.jpg: not an image" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "predict.input is not set"),
        (("predict.input=x", "ckpt=third.ckpt"), "best, last"),
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
