"""What is drawn is drawn once, the same everywhere, and kept: shown with scenes."""

import errno
import multiprocessing
import os
import shutil
import time
from pathlib import Path

import pytest
from PIL import Image

from hct_lightning.data.catalogue import Catalogue
from hct_lightning.data.reading.image import is_image
from hct_lightning.data.sources.scenes import scenes


def draw(root: Path, **options) -> Catalogue:
    return scenes(str(root), **({"scene_size": 128, "scene_seed": 0, "train": 6, "valid": 4} | options))


def contents(found: Catalogue) -> list[bytes]:
    return [Path(path).read_bytes() for path in found.train.paths + found.valid.paths]


def test_scenes_are_drawn_alike_everywhere(tmp_path):
    one, two = draw(tmp_path / "one"), draw(tmp_path / "two")
    assert len(one.train) == 6
    assert len(one.valid) == 4
    assert set(one.valid.labels) == set(range(len(one.classes)))
    assert list(one.classes) == sorted(one.classes)
    assert contents(one) == contents(two)
    assert len(set(contents(one))) == 10  # no two alike, no image on both sides
    with Image.open(one.train.paths[0]) as image:
        assert (image.size, image.mode) == ((128, 128), "RGB")
    for path, label in zip(one.train.paths, one.train.labels, strict=True):
        assert Path(path).parent.name == one.classes[label]


def test_scenes_are_kept(tmp_path):
    first = draw(tmp_path)
    written = {path: os.stat(path).st_mtime_ns for path in first.train.paths + first.valid.paths}
    assert draw(tmp_path) == first
    assert {path: os.stat(path).st_mtime_ns for path in written} == written
    # More of them, or another seed, leave those as they are and draw the rest alone.
    more = draw(tmp_path, train=9)
    assert more.train.paths[:6] == first.train.paths
    assert not set(draw(tmp_path, scene_seed=1).train.paths) & set(more.train.paths)
    assert {path: os.stat(path).st_mtime_ns for path in written} == written
    lost = Path(first.train.paths[2])
    before = lost.read_bytes()
    lost.unlink()
    draw(tmp_path)
    assert lost.read_bytes() == before


def test_a_killed_drawing_leaves_no_half_image(tmp_path):
    options = {"scene_size": 512, "valid": 0}
    run = multiprocessing.get_context("fork").Process(target=draw, args=(tmp_path,), kwargs=options | {"train": 2000})
    run.start()
    seen, deadline = set(), time.monotonic() + 60
    while len(seen) < 16 and time.monotonic() < deadline:
        for path in set(filter(is_image, tmp_path.rglob("*"))) - seen:
            with Image.open(path) as image:
                image.load()  # whole from the moment that it has its name
            seen.add(path)
    run.kill()
    run.join()
    assert 16 <= len(seen) < 2000
    # Its workers end with it: the next run isn't kept waiting, and draws what is missing.
    found = draw(tmp_path, train=24, **options)
    assert contents(found) == contents(draw(tmp_path / "whole", train=24, **options))


def test_processes_that_draw_at_once_wait_for_each_other(tmp_path):
    ranks = [multiprocessing.get_context("fork").Process(target=draw, args=(tmp_path / "shared",)) for _ in range(3)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
        assert rank.exitcode == 0
    assert contents(draw(tmp_path / "shared")) == contents(draw(tmp_path / "alone"))


def test_scenes_too_small_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"data\.scene_size=64: scenes are drawn at 128 pixels or more"):
        draw(tmp_path, scene_size=64)


def test_a_disk_that_is_too_small_for_them_is_told_before(tmp_path, monkeypatch):
    free = shutil.disk_usage(tmp_path)._replace(free=10**5)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    with pytest.raises(OSError, match=r"10 scenes of 512 px take about 0\.0 GB .* data\.train, data\.valid"):
        draw(tmp_path, scene_size=512)
    assert not list(filter(is_image, tmp_path.rglob("*")))


def test_a_disk_that_can_not_be_written_or_locked_is_said(tmp_path, monkeypatch):
    draw(tmp_path)
    opened = Path.open

    def read_only(path, *args, **options):
        if path.name == ".lock":
            raise OSError(errno.EROFS, "Read-only file system")
        return opened(path, *args, **options)

    def without_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", read_only)
        assert len(draw(tmp_path).train) == 6  # there is nothing to draw
        with pytest.raises(PermissionError, match=r"can't be written; .*HCT_DATA=<folder>"):
            draw(tmp_path, train=7)
    monkeypatch.setattr("fcntl.lockf", without_locks)
    assert Path(draw(tmp_path, train=7).train.paths[6]).exists()
