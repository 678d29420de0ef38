"""Images that do not fit the memory go through in tiles that do."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.data.reading.readers import FileReader, NativeReader
from hct_lightning.training import large_images
from hct_lightning.training.large_images import StreamsInMemory, check_background, tiling, way_through

CPU = torch.device("cpu")
TAKEN = 10**9


@pytest.fixture
def way(build, monkeypatch):
    """Of images of HCT in a process that takes a gigabyte already, of four that are there."""
    monkeypatch.setattr(large_images, "resident_bytes", lambda: TAKEN)
    monkeypatch.setattr(large_images, "available_bytes", lambda *_: 4 * 10**9)
    monkeypatch.setattr("hct_lightning.training.inference_memory.available_bytes", lambda *_: 4 * 10**9)

    def way(size, gb, batch_size=8):
        how = Decoding(channels=3, size=size, geometry="cover", max_pixels=10**12)
        reader = FileReader(how) if size else NativeReader(how)
        options = {"micro_batches": "auto", "ranks_here": 1, "build": build, "precision": "32-true"}
        return way_through(reader, CPU, max_memory_gb=gb, batch_size=batch_size, **options)

    return way


def test_images_of_one_size_go_together_whole_or_stream(way):
    assert way((512, 512), None) == (8, 512 * 512, 0)
    assert way((512, 512), 3).batch == 8
    few = way((2048, 2048), 1.9)
    assert 1 <= few.batch < 8
    assert few.most_pixels > 2048**2
    large = way((8192, 8192), 3)
    assert large.batch == 1
    assert large.most_pixels < 8192**2
    assert large.room == 3 * 10**9 - TAKEN
    assert way((8192, 8192), None)[0::2] == (1, 2 * 10**9)  # half of what there is


def test_images_of_their_own_sizes_go_alone(way):
    assert way(None, 3).batch == 1
    with pytest.raises(ValueError, match=r"max_memory_gb=all: give GB as a number"):
        way((8192, 8192), "all")
    with pytest.raises(ValueError, match=r"max_memory_gb=1 is too little: the program itself takes 1\.00"):
        way(None, 1)


@pytest.mark.parametrize("strips", [False, True])
def test_tiles_are_as_large_as_fits(build, strips):
    network = build().eval()

    def of(side, room, threads=2):
        source = SimpleNamespace(shape=(side, side, 3), by_strips=strips)
        return tiling(network, source, int(room), number_bytes=4, threads=threads)

    assert of(10_000, 1e12) == (4096, 2)
    small, large = of(10_000, 6e8), of(10_000, 9e8)
    assert 1024 <= small.tile < large.tile < 4096
    assert small.tile % 32 == 0
    assert of(10_000, 2e8).workers == 1
    with pytest.raises(ValueError, match=r"100000x100000 takes about .* Raise max_memory_gb"):
        of(100_000, 1e9)


def test_an_image_streams_in_what_there_is(build, caplog):
    network = build().eval()
    pixels = np.random.default_rng(0).integers(0, 256, (700, 900, 3), np.uint8)
    source = SimpleNamespace(shape=pixels.shape, name="a.tif", read=lambda y0, y1, x0, x1: pixels[y0:y1, x0:x1])
    with torch.inference_mode(), caplog.at_level("INFO", "hct_lightning"):
        given = StreamsInMemory(network, int(3e7))(source)
        expected = network(torch.from_numpy(pixels).permute(2, 0, 1)[None])
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-4)
    assert "a.tif: 900x700 pixels do not fit into 0.0 GB as a whole; in tiles of" in caplog.text


def test_a_background_is_a_difference_of_bytes():
    check_background(None)
    check_background(0)
    with pytest.raises(ValueError, match=r"predict\.background=300"):
        check_background(300)
