"""The program for HCT's int8 stem, against PyTorch's own operators."""

import ctypes
import mmap
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hct_lightning.deploy import stem


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        made = stem.compiled.__wrapped__()
    assert made, "there is no C++ compiler: apt-get install g++"
    return made


def parts(channels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(channels)
    weight = rng.integers(-127, 128, (16, channels, 7, 7)).astype(np.int8)
    scale = rng.uniform(-0.001, 0.002, 16).astype(np.float32)  # negative where a BatchNorm's weight is
    return weight, scale, rng.normal(40, 40, 16).astype(np.float32), np.array([124, 116, 104])[:channels]


def expected(pixels: torch.Tensor, weight, scale, shift, zero_points) -> torch.Tensor:
    image = (pixels.double() - torch.from_numpy(zero_points)).permute(2, 0, 1)[None]
    sums = F.max_pool2d(F.conv2d(image, torch.from_numpy(weight).double(), stride=2, padding=3), 3, stride=2)
    values = sums[0].permute(1, 2, 0) * torch.from_numpy(scale).double() + torch.from_numpy(shift).double()
    return values.clamp(0, 255)


@pytest.mark.parametrize("way", range(len(stem.WAYS)), ids=stem.WAYS)
@pytest.mark.parametrize("channels", stem.CHANNELS)
# Tiles of 64 outputs see up to pixel 264, of 65 up to 270, of 72 up to 296: an image ends with them, before and after them.
@pytest.mark.parametrize(
    "size",
    [
        (128, 128),
        (131, 129),
        (130, 1357),
        (129, 6301),
        *((129, end + by) for end in (265, 271, 297) for by in (-1, 0, 1)),
    ],
)
def test_the_map_is_that_of_the_network(library, size, channels, way):
    if way > library.hct_stem_way():
        pytest.skip(f"a CPU without {stem.WAYS[way]}")
    given = parts(channels)
    pixels = torch.randint(0, 256, (*size, channels), dtype=torch.uint8)
    found = stem.run_by(library, stem.pack(*given), 3, way=way)(pixels)
    exact = expected(pixels, *given)
    assert found.shape == exact.shape
    assert (found.double() - exact).abs().max() < 0.5001, "rounded to the nearest"
    assert ((exact > 0) & (exact < 255)).double().mean() > 0.1, "most are not at an end"


@pytest.mark.parametrize("channels", stem.CHANNELS)
def test_all_ways_and_any_number_of_threads_give_the_same_bytes(library, channels):
    pixels = torch.randint(0, 256, (357, 403, channels), dtype=torch.uint8)
    packed = stem.pack(*parts(channels))
    first = stem.run_by(library, packed, 1, way=0)(pixels)
    for way in range(library.hct_stem_way() + 1):
        for threads in (1, 2, 200):
            assert torch.equal(stem.run_by(library, packed, threads, way=way)(pixels), first), (way, threads)


@pytest.mark.parametrize("way", range(len(stem.WAYS)), ids=stem.WAYS)
@pytest.mark.parametrize("channels", stem.CHANNELS)
def test_nothing_is_read_behind_the_image(library, channels, way):
    """Images end where memory does: the page behind them can't be read."""
    if way > library.hct_stem_way():
        pytest.skip(f"a CPU without {stem.WAYS[way]}")
    libc = ctypes.CDLL(None)
    page = mmap.PAGESIZE
    memory = mmap.mmap(-1, 80 * page)
    whole = np.frombuffer(memory, np.uint8)
    end = whole[-page:].ctypes.data
    assert libc.mprotect(ctypes.c_void_p(end), page, 0) == 0
    run = stem.run_by(library, stem.pack(*parts(channels)), 2, way=way)
    try:
        for height, width in ((129, 265), (130, 264), (133, 297), (128, 403)):
            given = whole[:-page][-height * width * channels :].reshape(height, width, channels)
            given[:] = np.random.default_rng(width).integers(0, 256, given.shape, np.uint8)
            found = run(torch.from_numpy(given)).clone()
            assert torch.equal(found, run(torch.from_numpy(given.copy())))
    finally:
        libc.mprotect(ctypes.c_void_p(end), page, mmap.PROT_READ | mmap.PROT_WRITE)


def test_images_may_become_larger(library):
    run, sizes = stem.run_by(library, stem.pack(*parts(3)), 1), [(128, 128), (256, 200), (128, 128)]
    maps = []
    for size in sizes:
        maps.append(run(torch.full((*size, 3), 9, dtype=torch.uint8)))
        maps[-1].numpy()  # as OpenVINO takes it
    assert [tuple(found.shape[:2]) for found in maps] == [(31, 31), (63, 49), (31, 31)]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads work anywhere")
def test_the_caller_keeps_its_cpus(library):
    """Also where threads have nothing to do, and end before others have begun."""
    before = os.sched_getaffinity(0)
    run = stem.run_by(library, stem.pack(*parts(1)), 31)
    pixels = torch.zeros((128, 128, 1), dtype=torch.uint8)
    for _ in range(300):
        run(pixels)
    assert os.sched_getaffinity(0) == before


def test_fewer_threads_than_asked_for_will_do(library):
    """In a process of its own, which the system gives no room for the stack of another thread."""
    code = """
import resource, sys, torch
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_stem
library, packed = test_stem.stem.compiled(), test_stem.stem.pack(*test_stem.parts(3))
pixels = torch.randint(0, 256, (300, 300, 3), dtype=torch.uint8)
expected = test_stem.stem.run_by(library, packed, 1)(pixels)
taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + 2**22, taken + 2**22))
assert torch.equal(test_stem.stem.run_by(library, packed, 8)(pixels), expected)
"""
    subprocess.run([sys.executable, "-c", code, str(Path(__file__).parent)], check=True)


def test_what_is_no_stem_is_refused(library):
    packed = stem.pack(*parts(3))
    for bad in (b"", packed[:-1], packed + b"0", b"HCTSTEM2" + packed[8:], packed[:8] + b"\2" + packed[9:]):
        with pytest.raises(ValueError, match="is no stem of this version; export it again"):
            stem.run_by(library, bad, 1)


def test_images_of_another_form_are_refused(library):
    run = stem.run_by(library, stem.pack(*parts(3)), 1)
    for pixels in (torch.zeros((128, 128, 1), dtype=torch.uint8), torch.zeros((128, 128, 3))):
        with pytest.raises(ValueError, match="the stem takes uint8 h w 3"):
            run(pixels)


@pytest.mark.parametrize("size", [(1, 1), (2, 300), (300, 4)])
def test_an_image_without_a_pixel_of_the_map_is_refused(library, size):
    run = stem.run_by(library, stem.pack(*parts(1)), 1)
    with pytest.raises(ValueError, match=f"{size[1]}x{size[0]} pixels is too small for the stem, which takes 5 a side"):
        run(torch.zeros(*size, 1, dtype=torch.uint8))
    assert run(torch.zeros(5, 5, 1, dtype=torch.uint8)).shape == (1, 1, 16)
