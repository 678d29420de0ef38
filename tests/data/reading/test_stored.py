"""A window is asked for where the default loses what files hold, and nowhere else."""

import numpy as np
import pytest
from PIL import Image

from hct_lightning.data.reading.stored import window_for

MAX_PIXELS = 2**24


@pytest.mark.parametrize(
    ("name", "dtype", "values", "note"),
    [
        ("a.png", np.uint16, [500, 4000], "values are 500..4000 of 0..65535: give data.window=[500,4000]"),
        ("a.tif", np.uint16, [0, 16000], "values are 0..16000 of 0..65535: give data.window=[0,16000]"),
        ("a.tif", np.int16, [-1000, 2000], "values are -1000..2000 of 0..65535: give data.window=[-1000,2000]"),
        ("a.tif", np.int32, [-9, 60000], "values are -9..60000 of 0..65535: give data.window=[-9,60000]"),
        ("a.tif", np.uint32, [7, 2**31], "values are 7..2147483648 of 0..65535: give data.window=[7,2147483648]"),
        ("a.tif", np.int8, [-3, 9], "values are -3..9 of 0..255: give data.window=[-3,9]"),
        ("bands.tif", np.uint16, [100, 9000], "values are 100..9000 of 0..65535: give data.window=[100,9000]"),
    ],
)
def test_what_the_default_does_not_fit(tmp_path, name, dtype, values, note):
    assert window_for([written(tmp_path / name, values, dtype)], MAX_PIXELS) == (tuple(values), note)


@pytest.mark.parametrize(
    ("name", "dtype", "values"),
    [
        ("a.png", np.uint8, [3, 9]),
        ("a.tif", np.int8, [3, 9]),
        ("a.png", np.uint16, [0, 17000]),
        ("a.tif", np.uint32, [0, 65535]),
        ("a.png", np.uint16, [5, 5]),
        ("a.tif", np.float32, [-1, 1]),
        ("bands.tif", np.float32, [-1, 1]),
        ("bands.tif", np.uint8, [3, 9]),
    ],
)
def test_what_is_read_rightly_is_passed_over(tmp_path, name, dtype, values):
    assert window_for([written(tmp_path / name, values, dtype)], MAX_PIXELS) is None


def test_several_files_have_one_window_and_the_unreadable_and_the_too_large_none(tmp_path):
    dark = written(tmp_path / "dark.png", [10, 300], np.uint16)
    bright = written(tmp_path / "bright.png", [200, 4000], np.uint16)
    (tmp_path / "text.png").write_text("no image")
    bytes_too = written(tmp_path / "bytes.png", [0, 255], np.uint8)
    found = window_for([str(tmp_path / "text.png"), dark, bytes_too, bright], MAX_PIXELS)
    assert found is not None
    assert found[0] == (10, 4000)
    assert window_for([dark, bright], max_pixels=1) is None


def written(path, values, dtype):
    """Of two pixels; as six bands where the name says so."""
    rows = np.array([values], dtype)
    if path.suffix == ".png":
        Image.fromarray(rows).save(path)
    else:
        tifffile = pytest.importorskip("tifffile")
        stored = np.dstack([rows] * 6) if path.stem == "bands" else rows
        tifffile.imwrite(
            path, stored, photometric="minisblack", **({"planarconfig": "contig"} if stored.ndim == 3 else {})
        )
    return str(path)
