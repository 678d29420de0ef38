"""What decides the pixels is said once: stores, checkpoints and artifacts carry it whole, and originals are read by it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from hct_lightning.data.catalogue import Catalogue, Split
from hct_lightning.data.datamodule import ImageData
from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.data.reading.readers import FileReader
from hct_lightning.data.sources.store import store
from hct_lightning.data.store.format import Recipe
from hct_lightning.data.store.prepare import prepare
from hct_lightning.deploy.artifact import read_description
from hct_lightning.deploy.export import export_artifact
from hct_lightning.deploy.runtimes import torchscript
from hct_lightning.models import HCT, FromPixels
from hct_lightning.training.spec import NetworkSpec


def profile_with_red_and_blue_exchanged() -> bytes:
    """An ICC profile in which the first channel is blue: what ignores it sees other colours."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = int.from_bytes(profile[128:132], "big")
    at = {bytes(profile[132 + 12 * i :][:4]): 132 + 12 * i for i in range(count)}
    red, blue = at[b"rXYZ"], at[b"bXYZ"]
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(profile)


def coloured(path: Path, write_dicom) -> Path:
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[..., 0] = np.linspace(40, 220, 64)
    Image.fromarray(pixels).save(path.with_suffix(".png"), icc_profile=profile_with_red_and_blue_exchanged())
    return path.with_suffix(".png")


def banded(path: Path, write_dicom) -> Path:
    tifffile = pytest.importorskip("tifffile")
    values = np.random.default_rng(0).uniform(-50, 5000, (48, 64, 3)).astype(np.float32)
    tifffile.imwrite(path.with_suffix(".tif"), values, photometric="rgb")
    return path.with_suffix(".tif")


def mammogram(path: Path, write_dicom) -> Path:
    y, x = np.mgrid[:200, :150]
    breast = np.where((x - 149) ** 2 / 75**2 + (y - 100) ** 2 / 60**2 < 1, 1000 + 10 * y, 20)
    return write_dicom(path.with_suffix(".dcm"), breast.astype(np.uint16))


KINDS = {
    "srgb": (coloured, {"channels": 3, "srgb": True}),
    "a window for each band": (banded, {"channels": 3, "window": ((0, 1000), (-50, 50), (10, 5000))}),
    "breast": (mammogram, {"channels": 1, "breast": True}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_store_was_read_with_reaches_checkpoint_and_artifact(tmp_path, write_dicom, data_options, kind):
    """Until version 2 it was dropped without a word: originals were read otherwise than the store was."""
    write, options = KINDS[kind]
    originals = [str(write(tmp_path / name, write_dicom)) for name in "ab"]
    decoding = Decoding(size=(128, 128), geometry="cover", max_pixels=2**20, **options)
    found = Catalogue("pictures", ("x", "y"), Split(originals, [0, 1]), Split(originals, [0, 1]))
    root = tmp_path / "store"
    assert not prepare(
        found, Recipe(decoding, "raw", None), root, workers=1, skip_unreadable=False, progress=lambda items, _: items
    )
    # A run on the store, with the options that it has by default.
    dataset = ImageData(store, **data_options("store", root=str(root))).dataset
    assert dataset.decoding == decoding

    spec = NetworkSpec(
        model={"_target_": "hct_lightning.models.HCT"},
        classes=dataset.classes,
        decoding=dataset.decoding,
        mean=dataset.mean,
        std=dataset.std,
    )
    saved = json.loads(json.dumps(spec.as_json()))
    assert NetworkSpec.from_json(saved) == spec

    channels = options["channels"]
    network = FromPixels(
        HCT(in_chans=channels, num_classes=len(spec.classes)), [0.5] * channels, [0.2] * channels
    ).eval()
    artifact = export_artifact(
        "torchscript",
        torchscript.export,
        network,
        tmp_path,
        spec=spec.as_json(),
    )
    served = Decoding.from_json(read_description(artifact)["decoding"])

    plain = FileReader(Decoding(channels=channels, size=(128, 128), geometry="cover", max_pixels=2**20))
    for original, stored in zip(originals, dataset.catalogue.train.paths, strict=True):
        trained_on = dataset.reader(stored)
        for description in (NetworkSpec.from_json(saved).decoding, served):
            assert torch.equal(FileReader(description)(original), trained_on)
        assert not torch.equal(plain(original), trained_on), "else nothing is shown"


def test_a_store_that_was_read_otherwise_than_in_training_is_refused(tmp_path, data_options):
    """What a network was trained without, srgb=false say, was not asked of a store: it gave its own without a word."""
    for name in "ab":
        coloured(tmp_path / name, None)
    originals = [str(tmp_path / f"{name}.png") for name in "ab"]
    trained = Decoding(channels=3, size=(32, 32), geometry="cover", max_pixels=2**20)
    found = Catalogue("pictures", ("x", "y"), Split(originals, [0, 1]), Split(originals, [0, 1]))
    recipe = Recipe(replace(trained, srgb=True), "raw", None)
    root = tmp_path / "store"
    prepare(found, recipe, root, workers=1, skip_unreadable=False, progress=lambda items, _: items)
    spec = NetworkSpec(model={}, classes=("x", "y"), decoding=trained, mean=(0.5,) * 3, std=(0.2,) * 3)
    dataset = ImageData(store, **data_options("store", **spec.options(), root=str(root))).dataset
    with pytest.raises(
        ValueError, match=r"data\.srgb=true, the checkpoint was trained with false; .*: data\.srgb=true"
    ):
        spec.check_decoding(dataset.decoding)
    spec.check_decoding(dataset.decoding, chosen={"srgb"})
    spec.check_decoding(replace(trained, size=(64, 64), max_pixels=9))
