"""A reader gives images of one shape, also to where a batch wants them."""

import numpy as np
import pytest
import torch
from PIL import Image

from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.data.reading.readers import FileReader


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
