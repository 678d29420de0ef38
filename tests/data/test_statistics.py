"""Mean and deviation, against numpy's of the same pixels."""

import numpy as np
import pytest
from PIL import Image

from hct_lightning.data.feeding.images import Images
from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.data.reading.readers import FileReader
from hct_lightning.data.statistics import channel_statistics


@pytest.mark.parametrize("workers", [0, 3])
def test_statistics_are_numpys_and_unreadable_images_do_not_count(tmp_path, workers):
    pixels = np.random.default_rng(0).integers(0, 200, (4, 16, 24, 3), np.uint8)
    paths = [str(tmp_path / f"{i}.png") for i in range(4)]
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(image).save(path)
    (tmp_path / "broken.png").write_text("no image")
    paths.insert(1, str(tmp_path / "broken.png"))
    reader = FileReader(Decoding(channels=3, size=(16, 24), geometry="cover", max_pixels=10**6))
    mean, std = channel_statistics(Images(paths, [0] * 5, reader, skipped={}), workers)
    assert mean == pytest.approx((pixels / 255).mean(axis=(0, 1, 2)))
    assert std == pytest.approx((pixels / 255).std(axis=(0, 1, 2)))
    with pytest.raises(ValueError, match="none of the 1 images to measure can be read"):
        channel_statistics(Images(paths[1:2], [0], reader, skipped={}), workers)
