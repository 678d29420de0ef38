"""Preparing: what a store is made of and keeps, and what is refused."""

import errno
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from data.store.preparing import RECIPE, contents, run
from PIL import Image

from hct_lightning.data.catalogue import Catalogue, Split
from hct_lightning.data.sources.folder import folder
from hct_lightning.data.store.format import item_file
from hct_lightning.data.store.prepare import prepare
from hct_lightning.data.store.store import Store


def test_a_source_that_has_changed_is_made_again(images, tmp_path):
    root = tmp_path / "store"
    run(images, root)
    before = contents(root)
    first = sorted(images.rglob("*.png"))[0]
    Image.new("RGB", (100, 100), "red").save(first)
    run(images, root)
    after = contents(root)
    changed = {name for name in after if after[name] != before.get(name)} - {"store.json"}
    assert len(changed) == 1
    [path] = changed
    assert np.load(root / path)[0, 0].tolist() == [255, 0, 0]


def test_a_source_that_has_become_unreadable_is_not_kept_as_it_was(images, tmp_path):
    root = tmp_path / "store"
    run(images, root)
    first = sorted(images.rglob("*.png"))[0]
    first.write_text("<html>")
    assert set(run(images, root, skip=True)) == {str(first)}
    assert len(Store(root).items) == len(list(root.rglob("*.npy"))) == 23


def test_an_image_that_is_named_twice_is_twice_in_the_store(images, tmp_path):
    path = str(sorted(images.rglob("*.png"))[0])
    found = Catalogue("twice", ("a", "b"), Split([path] * 5, [0, 1, 0, 0, 0]), Split())
    options = {"workers": 2, "skip_unreadable": False}
    prepare(found, RECIPE, tmp_path / "store", **options, progress=lambda items, _: items)
    assert Store(tmp_path / "store").catalogue().train.labels == [0, 1, 0, 0, 0]


def test_an_image_of_classes_whose_names_differ_in_special_letters_is_of_each(images, tmp_path):
    """No folder has such letters, and some disks do not tell small ones from large ones."""
    paths = [str(path) for path in sorted(images.rglob("*.png"))[:2]]
    classes = ("A:b", "a/b", "a?b", "a_b")
    found = Catalogue("odd", classes, Split(paths[:1] * 4 + paths[1:], [1, 0, 3, 2, 3]), Split())
    options = {"workers": 2, "skip_unreadable": False, "progress": lambda items, _: items}
    for _ in range(2):
        prepare(found, RECIPE, tmp_path / "store", **options)
        made = Store(tmp_path / "store").catalogue().train
        assert made.labels == [1, 0, 3, 2, 3]
        assert len({path.casefold() for path in made.paths}) == 5
    # The item of one class alone is where it has always been.
    assert Path(made.paths[0]).name == Path(item_file("train", "a/b", paths[0], "raw")).name


def test_images_come_and_go(images, tmp_path):
    root = tmp_path / "store"
    run(images, root)
    gone = Store(root).items[0]
    Path(gone.source).unlink()
    Image.new("RGB", (100, 100)).save(images / "a" / "new.png")
    run(images, root)
    store = Store(root)
    assert not (root / gone.file).exists()
    assert sum("new" in item.file for item in store.items) == 1
    assert len(store.items) == len(list(root.rglob("*.npy"))) == 24


def test_another_store_or_folder_is_not_touched(images, tmp_path):
    root = tmp_path / "store"
    run(images, root)
    before = contents(root)
    for options, message in (
        ({"size": (32, 32)}, r"made with size=\[64, 64\], not \[32, 32\]"),
        ({"geometry": "paper"}, "made with geometry=cover, not paper"),
        ({"channels": 1}, "made with channels=3, not 1"),
        ({"file_format": "png"}, "made with format=raw, not png"),
        ({"window": (0, 9)}, r"made with window=None, not \[0, 9\]"),
    ):
        with pytest.raises(ValueError, match=message):
            run(images, root, **options)
    assert contents(root) == before
    other = images.parent / "others"
    shutil.copytree(images, other)
    with pytest.raises(ValueError, match=r"made with source=folder .*images, not folder .*others; give another"):
        run(other, root)
    assert contents(root) == before
    with pytest.raises(ValueError, match="is not empty and not a store"):
        run(images, images)


def test_a_part_of_the_images_does_not_replace_the_store_of_all(images, tmp_path):
    found = folder(str(images), valid_fraction=0.2, split_seed=0)
    do = partial(prepare, recipe=RECIPE, workers=2, skip_unreadable=False, progress=lambda items, _: items)
    do(found.at_most(4), root=tmp_path / "part", part=True)
    do(found, root=tmp_path / "part")  # more may come
    before = contents(tmp_path / "part")
    with pytest.raises(ValueError, match=r"holds 16 images that are not among these 8, .*data\.limit"):
        do(found.at_most(4), root=tmp_path / "part", part=True)
    do(found, root=tmp_path / "part")
    assert contents(tmp_path / "part") == before


def test_the_lock_is_the_same_file_for_all_who_come(images, tmp_path):
    """Who has opened it while another prepares would else hold one that is gone, beside the next one's."""
    root = tmp_path / "store"
    root.mkdir()
    with (root / ".lock").open("w") as waiting:
        run(images, root)
        assert os.path.samestat(os.fstat(waiting.fileno()), (root / ".lock").stat())


def test_a_disk_without_locks_is_none_that_is_in_use(images, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.lockf", refuse)
    run(images, tmp_path / "store")
    assert len(Store(tmp_path / "store").items) == 24


def test_all_unreadable_files_are_told_at_once_and_mended_ones_are_added(images, tmp_path):
    root = tmp_path / "store"
    paths = sorted(images.rglob("*.png"))
    whole = {path: path.read_bytes() for path in paths[:3]}
    paths[0].write_bytes(b"")
    paths[1].write_bytes(whole[paths[1]][:1000])
    paths[2].write_text("<html>")
    unreadable = run(images, root)
    assert set(unreadable) == {str(path) for path in paths[:3]}
    assert all(reason.startswith(path) for path, reason in unreadable.items())
    with pytest.raises(ValueError, match="is not complete"):
        Store(root)
    assert set(run(images, root, skip=True)) == set(unreadable)
    assert len(Store(root).items) == 21
    for path, content in whole.items():
        path.write_bytes(content)
    assert run(images, root) == {}
    assert len(Store(root).items) == 24


def test_what_is_done_stands_for_what_is_to_come(images, tmp_path):
    """Small and large files, and formats, take turns all the way, although each kind stands together in the list."""
    rng = np.random.default_rng(0)
    for i in range(24):
        Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8)).save(images / "b" / f"small {i}.png")
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (9, 9 + 9 * i, 3), np.uint8)).save(images / "b" / f"x {i}.bmp")
    made, kinds = [], []

    def seen(items, total):
        assert total == 60
        for item in items:
            made.append(item.source_bytes)
            kinds.append(Path(item.source).suffix)
            yield item

    found = folder(str(images), valid_fraction=0.2, split_seed=0)
    prepare(found, RECIPE, tmp_path / "store", workers=2, skip_unreadable=False, progress=seen)
    for count in (12, 16, 24, 36):
        assert np.mean(made[:count]) == pytest.approx(np.mean(made), rel=0.26)
        assert kinds[:count].count(".bmp") == pytest.approx(count / 5, abs=1)


@pytest.mark.slow
def test_a_worker_takes_less_than_three_decoded_images(photos, tmp_path):
    picture = Image.open(photos / "Animal/canyon-wren.jpg").resize((6000, 6000))
    for suffix in ("png", "jpg", "tif"):
        path = tmp_path / f"large.{suffix}"
        picture.save(path)
        code = (
            "import resource, sys\nfrom pathlib import Path\n"
            "from hct_lightning.data.store.prepare import _convert\n"
            "from hct_lightning.data.reading.decoding import Decoding\n"
            "from hct_lightning.data.store.format import Recipe\n"
            "recipe = Recipe(Decoding(channels=3, size=(3000, 3000), geometry='cover', max_pixels=10**8), 'raw', None)\n"
            "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
            "before = peak()\n"
            "job = ('train', 'a', sys.argv[1], 'train/a/0.npy', Path(sys.argv[2]), recipe)\n"
            "made = _convert(job)\n"
            "assert not isinstance(made, str), made\n"
            "print(peak() - before)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, path, tmp_path / suffix],
            capture_output=True,
            text=True,
            check=True,
        )
        assert int(done.stdout) < 3 * 6000 * 6000 * 3, suffix


def test_a_store_keeps_the_test_split_and_what_a_table_says(images, tmp_path):
    a, b = (sorted(str(path) for path in (images / label).iterdir()) for label in "ab")

    def made(group: str) -> Catalogue:
        found = Catalogue(
            "table",
            ("a", "b"),
            train=Split([a[0], b[0]], [0, 1], {"group": ["1", group]}),
            valid=Split([a[1]], [0], {"group": ["3"]}),
            test=Split([b[1], b[2]], [1, 1], {"group": ["4", ""]}),
        )
        options = {"workers": 1, "skip_unreadable": False, "progress": lambda items, _: items}
        assert prepare(found, RECIPE, tmp_path / "store", **options) == {}
        return Store(tmp_path / "store").catalogue()

    stored = made("2")
    assert stored.train.tags == {"group": ["1", "2"]}
    assert stored.valid.tags == {"group": ["3"]}
    assert stored.test.tags == {"group": ["4", ""]}
    assert stored.test.labels == [1, 1]
    ages = {path: Path(path).stat().st_mtime_ns for path in stored.train.paths}
    again = made("two")  # the table has changed, the images have not
    assert again.train.tags == {"group": ["1", "two"]}
    assert {path: Path(path).stat().st_mtime_ns for path in again.train.paths} == ages
