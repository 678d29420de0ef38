"""Our own decoder of JPEG gives the bytes that Pillow's gives, or leaves a file to it."""

import io
import platform
import random
import subprocess
from importlib.resources import files

import numpy as np
import pytest
import torch
from PIL import Image

from hct_lightning.data.reading import jpeg
from hct_lightning.data.reading.image import UnreadableImageError

pytest.importorskip("pyvips")

SIZES = [(1, 1), (7, 9), (17, 33), (64, 48), (250, 171)]
KINDS = {  # mode, and how it is written
    "grey": ("L", {}),
    "4:4:4": ("RGB", {"subsampling": 0}),
    "4:2:0": ("RGB", {"subsampling": 2}),
}


@pytest.fixture(scope="module")
def library():
    found = jpeg.compiled()
    assert found, "there is no C++ compiler: apt-get install g++"
    return found


@pytest.mark.skipif(platform.machine() != "x86_64", reason="elsewhere functions are compiled once")
@pytest.mark.parametrize(
    ("compiler", "chosen"),
    [
        ({"__GNUC__": 11}, "avx2"),
        ({"__GNUC__": 12}, "arch=x86-64-v3"),
        ({"__GNUC__": 4, "__clang__": 1, "__clang_major__": 17}, "avx2"),
        ({"__GNUC__": 4, "__clang__": 1, "__clang_major__": 18}, "arch=x86-64-v3"),
    ],
)
def test_compilers_choose_by_what_they_know(compiler, chosen):
    """GCC before 12 and clang before 18 know no levels of x86-64 there."""
    told = [f"-D{name}={value}" for name, value in {"__GLIBC__": 2, **compiler}.items()]
    header = files("hct_lightning.data.reading") / "cpp" / "fast.h"
    command = ["c++", "-E", "-P", "-w", "-U__GNUC__", "-U__clang__", *told, "-include", str(header), "-x", "c++", "-"]
    done = subprocess.run(command, input="FAST", capture_output=True, text=True, check=True)
    assert f'target_clones("{chosen}", "default")' in done.stdout


@pytest.fixture(scope="module")
def photo(photos):
    return Image.open(photos / "Animal/canyon-wren.jpg").convert("RGB")


def written(image: Image.Image, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def by_pillow(content: bytes, shrink: int) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        if shrink > 1:
            image.draft(image.mode, tuple(side // shrink for side in image.size))
        return np.array(image).reshape(image.height, image.width, -1)


def by_ours(library, content: bytes, shrink: int, shape: tuple, threads: int = 1, part: int = 0):
    """What the decoder returns, and the pixels."""
    pixels = np.full(shape, 7, np.uint8)
    known = library.hct_jpeg(content, len(content), shrink, *shape, pixels.ctypes.data, threads, part)
    return known, pixels


def assert_same(library, content: bytes, shrink: int, threads: int = 1, part: int = 0) -> int:
    """How many guesses of where a part begins were right."""
    expected = by_pillow(content, shrink)
    known, found = by_ours(library, content, shrink, expected.shape, threads, part)
    assert known, "it is a file for it"
    assert np.array_equal(found, expected)
    return known - 1


@pytest.mark.parametrize("quality", [30, 75, 95, 100])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_the_bytes_are_those_of_libjpeg(library, photo, size, kind, quality):
    mode, options = KINDS[kind]
    image = photo.resize(size).convert(mode)
    for i, more in enumerate(({}, {"optimize": True}, {"restart_marker_blocks": 3}, {"restart_marker_rows": 1})):
        content = written(image, quality=quality, **options, **more)
        for shrink in (1, 2, 4, 8):
            if shrink <= min(size) and (kind, shrink) != ("4:2:0", 1):
                assert_same(library, content, shrink, threads=1 + (i + shrink) % 7, part=(0, 50, 300)[i % 3])


@pytest.mark.parametrize("kind", KINDS)
def test_parts_that_begin_with_a_guess_are_met(library, photo, kind):
    mode, options = KINDS[kind]
    content = written(photo.resize((1000, 701)).convert(mode), quality=90, **options)
    for threads in range(1, 8):
        met = assert_same(library, content, 2, threads, len(content) // 20)
        assert met >= 3 if threads > 1 else met == 0, (threads, met)


def test_parts_begin_at_restarts_where_there_are_such(library, photo):
    content = written(photo.resize((1000, 701)), quality=90, restart_marker_rows=1)
    assert assert_same(library, content, 2, 3, len(content) // 20) >= 5


@pytest.mark.parametrize("shrink", [1, 2])
def test_where_guesses_are_never_right_it_is_slow_and_right(library, shrink):
    """A plain image is the same few bits again and again, and noise is nothing but codes that are hard to tell apart."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (199, 301, 3), dtype=np.uint8))
    stripes = Image.fromarray(np.tile(np.uint8([0, 255]), (160, 400)))
    for image in (Image.new("RGB", (1999, 1501), (9, 99, 199)), noise, stripes):
        content = written(image, quality=98, subsampling=0)
        for part in (1, 100, 3000):
            assert_same(library, content, shrink, 3, part)


def test_what_is_not_for_it(library, photo):
    image = photo.resize((64, 48))
    others = {
        "progressive": written(image, progressive=True),
        "CMYK": written(image.convert("CMYK")),
        "4:2:2": written(image, subsampling=1),
        "RGB": written(image, keep_rgb=True),
        "a PNG": b"\x89PNG\r\n\x1a\n" + bytes(99),
        "nothing": b"",
    }
    for name, content in others.items():
        for channels in (3, 4):
            assert not library.hct_jpeg_takes(content, len(content), 2, 24, 32, channels), name
            assert not by_ours(library, content, 2, (24, 32, channels))[0], name
    usual = written(image)
    assert library.hct_jpeg_takes(usual, len(usual), 2, 24, 32, 3)
    for shrink, *shape in (
        (1, 48, 64, 3),
        (2, 24, 32, 1),
        (2, 24, 33, 3),
        (2, 48, 64, 3),
        (3, 16, 22, 3),
        (0, 48, 64, 3),
    ):
        assert not library.hct_jpeg_takes(usual, len(usual), shrink, *shape)
        assert not by_ours(library, usual, shrink, tuple(shape))[0]


def test_damaged_files_are_left_to_libjpeg_or_read_as_it_does(library, photo):
    rng = random.Random(0)
    image = photo.resize((96, 64))
    whole = [
        written(image, quality=80),
        written(image.convert("L"), optimize=True),
        written(image, restart_marker_rows=1),
    ]
    taken = 0
    for content in whole * 300:
        damaged = bytearray(content)
        at = rng.randrange(len(content))
        match rng.randrange(4):
            case 0:
                del damaged[at:]
            case 1:
                del damaged[at : at + rng.randrange(1, 9)]
            case 2:
                damaged[at:at] = rng.randbytes(rng.randrange(1, 9))
            case _:
                damaged[at] = rng.randrange(256)
        shape = 32, 48, 1 if content is whole[1] else 3
        known, found = by_ours(library, bytes(damaged), 2, shape, 3, 400)
        if known:
            taken += 1
            assert np.array_equal(found, by_pillow(bytes(damaged), 2))
    assert 100 < taken < 600, "of such as nothing tells that they are damaged"


def test_nothing_is_taken_that_ends_early(library, photo):
    content = written(photo.resize((40, 24)), quality=60)
    for size in range(len(content)):
        assert not by_ours(library, content[:size], 2, (12, 20, 3), 2, 200)[0]


@pytest.fixture
def saved(tmp_path, photo):
    path = tmp_path / "x.jpg"
    photo.resize((640, 480)).save(path, quality=95)
    return path


@pytest.mark.parametrize("geometry", ["cover", "paper"])
@pytest.mark.parametrize("size", [(240, 320), (240, 240), (100, 130), (480, 640)])
def test_images_are_read_as_without_it(library, read, saved, monkeypatch, size, geometry):
    how = {"size": size, "geometry": geometry}
    found = read(saved, **how)
    monkeypatch.setattr(jpeg, "compiled", lambda: None)
    assert torch.equal(found, read(saved, **how))


def test_a_file_is_decoded_by_it(library, saved):
    assert jpeg.decode(saved, 2, (480, 640), 3, 2).shape == (240, 320, 3)
    assert jpeg.decode(saved, 1, (480, 640), 3, 2) is None, "chroma would have to be enlarged"


def test_no_file_or_one_that_is_mostly_no_pixels_is_not(library, saved):
    assert jpeg.decode(saved.parent / "none.jpg", 2, (480, 640), 3, 2) is None
    with saved.open("ab") as file:
        file.truncate(4 * 480 * 640 + 2**20 + 1)
    assert jpeg.decode(saved, 2, (480, 640), 3, 2) is None


def test_what_would_be_decoded_for_a_few_pixels_is_streamed(read, saved, photo, monkeypatch):
    """Odd sides can't be shrunk while they are decoded: such an image would lie in memory whole."""
    photo.resize((641, 481)).save(saved, quality=95, subsampling=0)
    decoded = []
    monkeypatch.setattr(jpeg, "decode", lambda *_: decoded.append(1))
    read(saved, size=(240, 320))
    assert decoded
    decoded.clear()
    read(saved, size=(120, 160))
    assert not decoded


def test_errors_are_those_of_other_decoders(library, read, saved, monkeypatch):
    content = saved.read_bytes()
    saved.write_bytes(content[: len(content) // 2])
    with pytest.raises(UnreadableImageError) as with_it:
        read(saved, size=(240, 320))
    monkeypatch.setattr(jpeg, "compiled", lambda: None)
    with pytest.raises(UnreadableImageError) as without:
        read(saved, size=(240, 320))
    assert str(with_it.value) == str(without.value)


def test_without_a_compiler_there_is_none(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with caplog.at_level("INFO"):
        assert jpeg.compiled.__wrapped__() is None
    assert "JPEGs are read slower than they could" in caplog.text
