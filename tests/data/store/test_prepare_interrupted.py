"""Preparing that is killed, interrupted or short of disk: nothing half-made counts, and it goes on."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from data.store.preparing import RECIPE, contents, run

from hct_lightning.data.sources.folder import folder
from hct_lightning.data.store.prepare import prepare
from hct_lightning.data.store.store import Store

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


def test_killed_before_anything_was_noted_it_begins_again(images, tmp_path):
    root = tmp_path / "store"
    root.mkdir()
    for name in (".lock", "items.jsonl", ".store.json.123.tmp", ".items.jsonl.123.tmp"):
        (root / name).touch()
    run(images, root)
    assert {path.name for path in root.iterdir()} == {".lock", "store.json", "train", "valid"}


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
