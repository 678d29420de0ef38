"""TIFFs of many bands, of 16-bit and of float colours."""

import sys
from pathlib import Path

import numpy as np
import pytest

from hct_lightning.data.reading.image import UnreadableImageError, probe


def bands(path: Path, values: np.ndarray, **options) -> Path:
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(path, values, **options)
    return path


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("tile", [None, (64, 64)])
@pytest.mark.parametrize("compression", [None, "deflate"])
def test_a_satellites_tiff(tmp_path, planar, tile, compression, read):
    values = np.random.default_rng(0).integers(0, 4000, (100, 150, 6), np.uint16)
    stored = values if planar == "contig" else values.transpose(2, 0, 1)
    path = bands(
        tmp_path / "s.tif",
        stored,
        photometric="minisblack",
        planarconfig=planar,
        tile=tile,
        compression=compression,
    )
    assert probe(path, max_pixels=2**24) == (6, 100, 150)
    image = read(path, 6, window=(0, 4000))
    want = np.rint(values.astype(np.float32) * (255 / 4000))
    assert np.array_equal(image.permute(1, 2, 0), want)
    assert read(path, 6, size=(50, 50)).shape == (6, 50, 50)
    with pytest.raises(UnreadableImageError, match=r"it is a 16-bit TIFF of 6 bands where data\.channels=3"):
        read(path, 3)


def test_each_band_may_have_its_window_and_nan_becomes_its_lower_end(tmp_path, read):
    values = np.stack([np.full((4, 5), 0.5), np.full((4, 5), 50), np.full((4, 5), -5)], -1)
    values[0, 0] = np.nan
    path = bands(tmp_path / "f.tif", values.astype(np.float32), photometric="rgb")
    image = read(path, 3, window=((0, 1), (0, 100), (-10, 0)))
    assert image[:, 1, 1].tolist() == [128, 128, 128]
    assert image[:, 0, 0].tolist() == [0, 0, 0]
    with pytest.raises(UnreadableImageError, match=r"data\.window is for 2 bands, the image has 3"):
        read(path, 3, window=((0, 1), (0, 100)))


def test_sixteen_bit_colour_keeps_its_window(tmp_path, read):
    values = np.zeros((8, 8, 3), np.uint16)
    values[..., 0], values[..., 1] = 500, 1000
    path = bands(tmp_path / "c.tif", values, photometric="rgb")
    assert read(path, 3, window=(0, 1000))[:, 0, 0].tolist() == [128, 255, 0]


def test_a_missing_extra_is_named(tmp_path, monkeypatch, read):
    values = np.zeros((8, 8, 5), np.uint16)
    path = bands(tmp_path / "s.tif", values, photometric="minisblack", planarconfig="contig")
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(UnreadableImageError, match=r"pip install 'hct-lightning\[data\]'"):
        read(path, 5)


@pytest.mark.parametrize(
    ("count", "photometric", "kind", "found"),
    [
        (2, "minisblack", "unspecified", 2),
        (4, "rgb", "unspecified", 4),
        (6, "rgb", "unspecified", 6),
        (4, "rgb", "unassalpha", 3),
        (2, "minisblack", "assocalpha", 1),
    ],
)
def test_bands_of_eight_bits_count_where_they_are_no_transparency(tmp_path, count, photometric, kind, found, read):
    colours = 3 if photometric == "rgb" else 1
    values = np.random.default_rng(0).integers(0, 256, (40, 50, count), np.uint8)
    values[..., found:] = 255  # nothing is seen through it
    path = bands(
        tmp_path / "s.tif",
        values,
        photometric=photometric,
        planarconfig="contig",
        extrasamples=[kind] * (count - colours),
    )
    assert probe(path, max_pixels=2**24) == (found, 40, 50)
    assert np.array_equal(read(path, found).permute(1, 2, 0), values[..., :found])
