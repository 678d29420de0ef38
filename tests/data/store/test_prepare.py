"""Preparing: interrupted, gone on with, refused."""

import errno
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hct_lightning.data.catalogue import Catalogue, Split
from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.data.sources.folder import folder
from hct_lightning.data.store.format import Recipe, item_file
from hct_lightning.data.store.prepare import prepare
from hct_lightning.data.store.store import Store

RECIPE = Recipe(Decoding(channels=3, size=(64, 64), geometry="cover", max_pixels=10**7), "raw", None)

# Prepares the images of a folder as the task does, in a process that can be killed.
PROGRAM = """
import sys
from pathlib import Path
from hct_lightning.data.store.prepare import prepare
from hct_lightning.data.sources.folder import folder
from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.data.store.format import Recipe
recipe = Recipe(Decoding(channels=3, size=(64, 64), geometry="cover", max_pixels=10**7), "raw", None)
def say(items, total):
    print("go", flush=True)
    return items
prepare(folder(sys.argv[1], valid_fraction=0.2, split_seed=0), recipe, Path(sys.argv[2]), workers=2,
        skip_unreadable=False, progress=say)
"""


@pytest.fixture
def images(tmp_path) -> Path:
    """24 images of two classes."""
    rng = np.random.default_rng(0)
    for i in range(24):
        path = tmp_path / "images" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (300, 400, 3), np.uint8)).save(path)
    return tmp_path / "images"


def run(
    images: Path, root: Path, skip: bool = False, file_format: str = "raw", quality: int | None = None, **options
) -> dict[str, str]:
    defaults = {"channels": 3, "size": (64, 64), "geometry": "cover", "max_pixels": 10**7}
    return prepare(
        folder(str(images), valid_fraction=0.2, split_seed=0),
        Recipe(Decoding(**defaults | options), file_format, quality),
        root,
        workers=2,
        skip_unreadable=skip,
        progress=lambda items, _: items,
    )


def contents(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


def killed_somewhere(images: Path, root: Path, rng: random.Random) -> bool:
    """Starts preparing and kills it, workers and all; False when it was done before."""
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(images), str(root)],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    with child.stdout:
        child.stdout.readline()
    time.sleep(rng.uniform(0, 0.3))
    # The parent alone every other time: its workers must follow it.
    if rng.random() < 0.5:
        os.killpg(child.pid, signal.SIGKILL)
    else:
        child.kill()
    return child.wait() != 0


@pytest.mark.slow
def test_killed_ten_times_it_ends_as_if_undisturbed(images, tmp_path):
    assert run(images, tmp_path / "whole") == {}
    rng, kills = random.Random(0), 0
    while kills < 10:
        kills += killed_somewhere(images, tmp_path / "killed", rng)
        manifest = json.loads((tmp_path / "killed" / "store.json").read_text())
        if not manifest["complete"]:
            with pytest.raises(ValueError, match="is not complete"):
                Store(tmp_path / "killed")
        else:
            shutil.rmtree(tmp_path / "killed")
    run(images, tmp_path / "killed")
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_what_is_there_is_not_made_again_and_what_is_missing_is(images, tmp_path):
    root = tmp_path / "store"
    run(images, root)
    undisturbed = contents(root)
    items = sorted(root.rglob("*.npy"))
    made = {path: path.stat().st_mtime_ns for path in items}
    # As a kill leaves it: not complete, the journal's last line cut off, an item lost, one half-written.
    manifest = json.loads((root / "store.json").read_text())
    lines = [json.dumps(item) for item in manifest.pop("items")]
    (root / "items.jsonl").write_text("\n".join(lines)[:-30])
    (root / "store.json").write_text(json.dumps(manifest | {"complete": False}))
    items[0].unlink()
    items[1].write_bytes(items[1].read_bytes()[:-1])
    (items[2].parent / f".{items[2].name}.tmp").write_bytes(b"half")
    run(images, root)
    assert contents(root) == undisturbed
    again = {path for path in items if path.stat().st_mtime_ns != made[path]}
    assert {items[0], items[1]} <= again
    assert len(again) == 3  # and the one whose line was cut off


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


def test_killed_before_anything_was_noted_it_begins_again(images, tmp_path):
    root = tmp_path / "store"
    root.mkdir()
    for name in (".lock", "items.jsonl", ".store.json.123.tmp", ".items.jsonl.123.tmp"):
        (root / name).touch()
    run(images, root)
    assert {path.name for path in root.iterdir()} == {".lock", "store.json", "train", "valid"}


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


def test_interrupted_between_two_items_no_worker_goes_on(images, tmp_path):
    found = folder(str(images), valid_fraction=0.2, split_seed=0)
    options = {"workers": 2, "skip_unreadable": False}

    def interrupted(items, total):
        yield next(iter(items))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as error:
        prepare(found, RECIPE, tmp_path / "store", **options, progress=interrupted)
    assert error.traceback  # it holds the frames, and with them what they hold
    assert not multiprocessing.active_children()


def test_a_disk_that_is_too_small_is_refused_before(images, tmp_path, monkeypatch):
    free = shutil.disk_usage(tmp_path)._replace(free=2**28 + 100_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    with pytest.raises(OSError, match=r"needs about 0\.00 GB more and the disk has 0\.00 GB"):
        run(images, tmp_path / "store")
    assert not list((tmp_path / "store").rglob("*.npy"))


@pytest.mark.slow
def test_a_disk_that_is_full_leaves_what_was_made(images, tmp_path):
    """On a real disk of 100 kB: refused before, or filled by others half way; then enlarged."""
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("no right to mount a small disk")
    filled = "from hct_lightning.data.store import prepare; prepare._KEEP_FREE = -(2**30)\n" + PROGRAM
    python, disk = sys.executable, tmp_path / "disk"
    disk.mkdir()
    script = f"""set -e
        mount -t tmpfs -o size=100k none {disk}
        ! {python} -c "$PROGRAM" {images} {disk}/store 2> {tmp_path}/refused.txt
        find {disk} -name '*.npy' > {tmp_path}/refused_items.txt
        ! {python} -c "$FILLED" {images} {disk}/store 2> {tmp_path}/full.txt
        find {disk} -name '*.npy' > {tmp_path}/full_items.txt
        find {disk} -name '*.tmp' > {tmp_path}/left.txt
        mount -o remount,size=1g {disk}
        {python} -c "$PROGRAM" {images} {disk}/store
        cp -r {disk}/store {tmp_path}/store
    """
    environment = os.environ | {"PROGRAM": PROGRAM, "FILLED": filled}
    subprocess.run(["unshare", "-rm", "sh", "-c", script], env=environment, check=True)
    said = {name: (tmp_path / f"{name}.txt").read_text() for name in ("refused", "full")}
    assert "the store needs about" in said["refused"]
    assert not (tmp_path / "refused_items.txt").read_text()
    assert ".npy: No space left on device; mend that and run it again" in said["full"]
    assert 0 < len((tmp_path / "full_items.txt").read_text().splitlines()) < 24
    assert not (tmp_path / "left.txt").read_text()
    assert run(images, tmp_path / "undisturbed") == {}
    assert contents(tmp_path / "store") == contents(tmp_path / "undisturbed")


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
