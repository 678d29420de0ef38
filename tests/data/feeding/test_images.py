from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hct_lightning.data.feeding.images import Images
from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.data.reading.image import UnreadableImageError
from hct_lightning.data.reading.readers import FileReader, NativeReader


def dataset(*paths: Path, **options) -> Images:
    """Of image files, each with a label of its own."""
    decoding = {"channels": 3, "size": (32, 32), "geometry": "cover", "max_pixels": 10**6}
    reading = {name: options.pop(name) for name in list(options) if name not in ("skipped", "replace")}
    return Images([str(p) for p in paths], range(len(paths)), FileReader(Decoding(**decoding | reading)), **options)


@pytest.fixture
def files(tmp_path) -> list[Path]:
    """Four of noise; the third is cut off, and the last is not there."""
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for i, path in enumerate(paths[:3]):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (40, 60, 3), np.uint8)).save(path)
    paths[2].write_bytes(paths[2].read_bytes()[:3000])
    return paths


def test_an_image_has_its_label_and_index(files):
    images = dataset(*files)
    assert len(images) == 4
    for i in range(2):
        image, label, index = images[i]
        assert torch.equal(image, images.reader(str(files[i])))
        assert (label, index) == (i, i)


def test_padding_shows_an_image_and_says_so(files):
    images = dataset(*files)
    for i in range(2):
        image, label, index = images[-1 - i]
        assert torch.equal(image, images[i][0])
        assert (label, index) == (i, -1 - i)


def test_an_unreadable_file_ends_it_by_name(files):
    for file in files[2:]:
        with pytest.raises(UnreadableImageError, match=str(file)):
            dataset(*files)[files.index(file)]


def test_an_unreadable_file_can_be_skipped(files):
    images = dataset(*files, skipped={})
    for i in (2, 3):  # black, and not counted
        image, label, index = images[i]
        assert not image.any()
        assert (label, index) == (i, -1 - i)
    assert set(images.skipped) == set(map(str, files[2:]))
    assert "no such file" in images.skipped[str(files[3])]


def test_an_unreadable_file_can_be_replaced_by_the_next_that_can_be_read(files):
    images = dataset(*files, skipped={}, replace=True)
    for i in (2, 3):
        image, label, index = images[i]
        assert torch.equal(image, images[0][0])
        assert (label, index) == (0, i)
    with pytest.raises(UnreadableImageError, match="none of the 2 images can be read"):
        dataset(*files[2:], skipped={}, replace=True)[1]


def test_an_unreadable_image_of_its_own_size_is_replaced_or_not_counted(files):
    reader = NativeReader(Decoding(channels=3, size=None, geometry="cover", max_pixels=10**6))
    Image.new("RGB", (150, 140)).save(files[0])
    paths = [str(files[2]), str(files[0])]
    image, label, index = Images(paths, [0, 1], reader, skipped={}).native(0)
    assert image.shape == (3, 128, 128)
    assert (label, index) == (0, -1)
    image, label, index = Images(paths, [0, 1], reader, skipped={}, replace=True).native(0)
    assert image.shape == (3, 140, 150)
    assert (label, index) == (1, 0)


def test_the_window_reaches_the_reader(tmp_path):
    Image.fromarray(np.full((32, 32), 500, np.uint16)).save(tmp_path / "a.png")
    assert dataset(tmp_path / "a.png", window=(0, 1000))[0][0].unique().tolist() == [128]


def test_the_control_takes_the_detail_and_keeps_the_size(tmp_path):
    # Stripes of two pixels on a coarse ramp: what is fine goes, what is coarse stays.
    ramp = np.linspace(40, 215, 256)[None].repeat(256, 0)
    stripes = np.where(np.arange(256) // 2 % 2, 30, -30)[:, None]
    Image.fromarray((ramp + stripes).astype(np.uint8)).save(tmp_path / "a.png")
    full, control = (
        dataset(tmp_path / "a.png", channels=1, size=(256, 256), reduce_to=pixels)[0][0][0].float()
        for pixels in (None, 32)
    )
    assert control.shape == full.shape
    assert full.std(dim=0).mean() > 25
    assert control[8:-8].std(dim=0).mean() < 1
    assert (control - torch.from_numpy(ramp))[8:-8, 8:-8].abs().mean() < 2


def test_one_that_turns_out_unreadable_region_by_region_can_be_skipped(tmp_path, photos):
    pytest.importorskip("pyvips")
    whole = (photos / "Plant" / "blue-periwinkle.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    reader = NativeReader(Decoding(channels=3, size=None, geometry="cover", max_pixels=10**9)).opening(0)
    for skipped in ({}, None):
        images = Images([str(tmp_path / "cut.jpg")], [0], reader, skipped=skipped)
        image, _, index = images.native(0)
        assert index == 0
        height, width, _ = image.shape
        with pytest.raises(UnreadableImageError, match=r"cut\.jpg: ") as damaged:
            image.read(height - 9, height, 0, width)
        if skipped is None:
            with pytest.raises(UnreadableImageError, match=r"cut\.jpg: "):
                image.skips(damaged.value)
        else:
            image.skips(damaged.value)
            assert list(skipped) == images.paths
