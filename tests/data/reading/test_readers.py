"""A reader gives images of one shape, also to where a batch wants them."""

from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.data.reading.image import UnreadableImageError
from hct_lightning.data.reading.readers import FileReader, NativeReader
from hct_lightning.data.reading.regions import Regions, open_regions


def decoding(size: tuple[int, int] | None, channels: int = 3) -> Decoding:
    return Decoding(channels=channels, size=size, geometry="cover", max_pixels=10**6)


@pytest.mark.parametrize("channels", [1, 3])
def test_files_of_any_size_come_in_one_shape_and_to_a_given_place(tmp_path, read, channels):
    reader = FileReader(decoding((24, 32), channels))
    assert reader.shape == (24, 32, channels)
    for height, width in ((24, 32), (50, 90)):
        path = tmp_path / f"{height}.png"
        pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(path)
        image = reader(str(path))
        assert torch.equal(image, read(path, channels, size=(24, 32)))
        place = np.zeros(reader.shape, np.uint8)
        reader.into(str(path), place)
        assert np.array_equal(place, image.permute(1, 2, 0))


def test_images_of_a_batch_need_one_size():
    with pytest.raises(ValueError, match=r"data\.resolution is null: give one"):
        FileReader(decoding(None))


def test_every_image_at_its_own_size_and_large_ones_by_region(tmp_path, read):
    reader = NativeReader(decoding(None), (200, 300)).opening(200 * 200)
    assert reader.shape == (200, 300, 3)
    for height, width, kind in ((128, 129, torch.Tensor), (200, 200, torch.Tensor), (200, 201, Regions)):
        path = tmp_path / f"{width}.png"
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)).save(path)
        image = reader.open(str(path))
        assert isinstance(image, kind)
        whole = read(path, 3)
        if isinstance(image, Regions):
            image = torch.from_numpy(image.read(0, height, 0, width)).permute(2, 0, 1)
        assert torch.equal(image, whole)
    np.save(tmp_path / "a.npy", np.zeros((130, 140, 3), np.uint8))
    assert reader.open(str(tmp_path / "a.npy")).shape == (130, 140, 3)
    Image.new("RGB", (127, 400)).save(tmp_path / "small.png")
    with pytest.raises(
        UnreadableImageError, match=r"small\.png: 127x400 pixels are too few for data\.resolution=native"
    ):
        reader.open(str(tmp_path / "small.png"))


def test_what_is_read_by_region_is_opened_once(tmp_path, monkeypatch):
    """What lies at a url is asked for at each time."""
    np.save(tmp_path / "a.npy", np.zeros((130, 140, 3), np.uint8))
    opening = Mock(side_effect=open_regions)
    monkeypatch.setattr("hct_lightning.data.reading.readers.open_regions", opening)
    NativeReader(decoding(None)).opening(10).open(str(tmp_path / "a.npy"))
    opening.assert_called_once()


def test_what_cropping_leaves_too_small_is_refused(tmp_path, write_dicom):
    """So that data.on_error=skip catches it."""
    pixels = np.full((400, 300), 20, np.uint16)
    pixels[150:250, :200] = 3000
    path = write_dicom(tmp_path / "m.dcm", pixels)
    cropping = Decoding(channels=1, size=None, geometry="cover", max_pixels=10**6, breast=True)
    with pytest.raises(UnreadableImageError, match=r"m\.dcm: 204x108 pixels are too few"):
        NativeReader(cropping).open(str(path))
    assert NativeReader(decoding(None, 1)).open(str(path)).shape == (1, 400, 300)
