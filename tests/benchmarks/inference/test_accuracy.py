"""Intervals and tests against published values and against brute force."""

import itertools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from hct_lightning.benchmarks.inference.accuracy import compare, judge, judged_against, mcnemar
from hct_lightning.benchmarks.inference.subjects import find
from hct_lightning.data.catalogue import Catalogue, Split
from hct_lightning.data.datamodule import ImageData
from hct_lightning.data.sources.store import store
from hct_lightning.data.store.format import Recipe
from hct_lightning.data.store.prepare import prepare

RUN = Path(__file__).parents[2] / "formats" / "2026-11" / "run"


def test_mcnemar_is_the_exact_sign_test():
    """Against the share of all ways in which the images that differ could have gone."""
    for gained, lost in ((0, 0), (1, 0), (3, 1), (2, 7), (5, 5)):
        right = [True] * gained + [False] * lost + [True] * 4 + [False] * 3
        reference = [False] * gained + [True] * lost + [True] * 4 + [False] * 3
        n, observed = gained + lost, abs(gained - lost)
        ways = [abs(2 * sum(coins) - n) >= observed for coins in itertools.product((0, 1), repeat=n)]
        assert mcnemar(right, reference) == pytest.approx(sum(ways) / len(ways))


def test_compare():
    found = compare(answers=[0, 1, 2, 3, 0], reference=[0, 1, 2, 0, 1], labels=[0, 1, 2, 3, 3])
    assert found["accuracy"] == 0.8
    assert found["agreement"] == 0.6
    assert found["low"] < 0.8 < found["high"]
    assert found["mcnemar_p"] == 1.0


@pytest.mark.parametrize("file_format", ["raw", "png"])
def test_answers_on_the_images_of_a_store(tmp_path, data_options, file_format):
    models = {name: find(RUN / name) for name in ("checkpoints/best.ckpt", "artifacts/torchscript")}
    reference = models["checkpoints/best.ckpt"]
    paths = [str(tmp_path / f"{i}.png") for i in range(4)]
    for i, path in enumerate(paths):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (140, 150, 3), np.uint8)).save(path)
    pictures = Split(paths, [0, 1, 2, 3])
    prepare(
        Catalogue("pictures", reference.classes, pictures, pictures),
        Recipe(reference.decoding, file_format, None),
        tmp_path / "store",
        workers=1,
        skip_unreadable=False,
        progress=lambda items, _: items,
    )
    data = ImageData(store, **data_options("store", root=str(tmp_path / "store")))
    first, second = judge(models, data, 3)["rows"]
    assert (first["side"], first["agreement"], second["agreement"]) == ("checkpoints/best.ckpt", 1.0, 1.0)
    assert first["accuracy"] == second["accuracy"]


def test_what_can_not_be_judged_is_said_before_anything_is_measured():
    models = {name: find(RUN / name) for name in ("checkpoints/best.ckpt", "artifacts/torchscript")}
    checkpoint = models["checkpoints/best.ckpt"]
    data = SimpleNamespace(dataset=SimpleNamespace(classes=checkpoint.classes))
    assert judged_against(models, data) == ("checkpoints/best.ckpt", models)
    height, width = checkpoint.decoding.size
    other = checkpoint._replace(decoding=replace(checkpoint.decoding, size=(height + 32, width)))
    with pytest.raises(
        ValueError, match=r"torchscript does not take the images of \d+x\d+ pixels that checkpoints/best.ckpt is for"
    ):
        judged_against(models | {"checkpoints/best.ckpt": other}, data)
    with pytest.raises(ValueError, match=r"tells .* apart, the data has x, y"):
        judged_against(models, SimpleNamespace(dataset=SimpleNamespace(classes=("x", "y"))))
    with pytest.raises(ValueError, match=r"benchmark\.accuracy compares with fp32"):
        judged_against({"timm": checkpoint._replace(kind="timm")}, data)
