"""Scenes are JPEG files in full colour, of four classes."""

from PIL import Image

from hct_lightning.data.sources.scenes import scenes


def test_scenes_are_jpeg_files_in_full_colour(tmp_path):
    found = scenes(str(tmp_path), scene_size=128, scene_seed=0, train=4, valid=0)
    assert found.classes == ("dots", "grid", "rings", "stripes")
    assert found.train.labels == [0, 1, 2, 3]
    with Image.open(found.train.paths[0]) as image:
        image.load()
        assert (image.size, image.mode, image.format) == ((128, 128), "RGB", "JPEG")
        assert image.layer[0][1:3] == image.layer[1][1:3]  # colour is not subsampled
