"""16-bit and float values become uint8 by one rule."""

import numpy as np
import pytest

from hct_lightning.data.reading.image import UnreadableImageError


def test_16_bit_is_windowed_to_its_full_range(tmp_path, read, store_values):
    path = store_values(tmp_path / "a.png", [0, 1, 257, 32768, 65535], np.uint16)
    assert read(path, 1).tolist() == [[[0, 0, 1, 128, 255]]]
    # What an image happens to hold doesn't change how it is shown.
    dark = store_values(tmp_path / "dark.png", [0, 1, 1, 0, 1], np.uint16)
    assert read(dark, 1).tolist() == [[[0, 0, 0, 0, 0]]]
    assert read(path, 3).shape == (3, 1, 5)


@pytest.mark.parametrize("scale", [0.001, 1, 1000])
@pytest.mark.parametrize("offset", [0, -3])
def test_floats_are_windowed_to_their_own_range(tmp_path, scale, offset, read, store_values):
    values = [scale * (x + offset) for x in (0, 1, 2, 5)]
    path = store_values(tmp_path / "a.tiff", values, np.float32)
    assert read(path, 1).tolist() == [[[0, 51, 102, 255]]]


def test_the_window_is_an_option(tmp_path, read, store_values):
    ct = store_values(tmp_path / "ct.tiff", [-1000, -160, 40, 240, 3000], np.int32)
    assert read(ct, 1, window=(-160, 240)).tolist() == [[[0, 0, 128, 255, 255]]]
    floats = store_values(tmp_path / "float.tiff", [-1, 0, 0.5, 1, 9], np.float32)
    assert read(floats, 1, window=(0, 1)).tolist() == [[[0, 0, 128, 255, 255]]]
    eight_bit = store_values(tmp_path / "eight.png", [0, 100, 255], np.uint8)
    assert read(eight_bit, 1, window=(0, 1)).tolist() == [[[0, 100, 255]]]


@pytest.mark.parametrize(
    ("dtype", "values", "range_read"),
    [(np.uint32, [7, 2**31], "0..65535"), (np.int32, [-1, 65536], "0..65535"), (np.int8, [-128, 100], "0..255")],
)
def test_integers_that_the_default_would_cut_off_are_refused_with_their_range(
    tmp_path, dtype, values, range_read, read
):
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "a.tif", np.array([values], dtype))
    name, (low, high) = np.dtype(dtype).name, values
    with pytest.raises(
        UnreadableImageError,
        match=rf"a\.tif: it holds {name} of {low}\.\.{high}, and {range_read} is read: give data\.window=\[{low},{high}\]$",
    ):
        read(tmp_path / "a.tif", 1)
    assert read(tmp_path / "a.tif", 1, window=(low, high)).tolist() == [[[0, 255]]]


@pytest.mark.parametrize(
    ("dtype", "values", "pixels"),
    [
        (np.int8, [0, 100, 127], [0, 100, 127]),
        (np.uint32, [0, 32768, 65535], [0, 128, 255]),
        (np.int32, [-32768, 32768, 65535], [0, 128, 255]),  # a mark of no data
    ],
)
def test_what_the_default_reads_rightly_stays_so(tmp_path, dtype, values, pixels, read):
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "a.tif", np.array([values], dtype))
    assert read(tmp_path / "a.tif", 1).tolist() == [[pixels]]


def test_what_is_not_finite_is_windowed_too(tmp_path, read, store_values):
    path = store_values(tmp_path / "a.tiff", [np.nan, -np.inf, 2, 3, np.inf], np.float32)
    assert read(path, 1).tolist() == [[[0, 0, 0, 255, 255]]]
    assert read(path, 1, window=(1, 5)).tolist() == [[[0, 0, 64, 128, 255]]]


def test_a_constant_image_is_black(tmp_path, read, store_values):
    assert read(store_values(tmp_path / "a.tiff", [7, 7], np.float32), 1).tolist() == [[[0, 0]]]
