"""A store behind a web server: the same images as from its folder, fetched once."""

import contextlib
import functools
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hct_lightning.data.catalogue import Catalogue, Split
from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.data.reading.image import UnreadableImageError
from hct_lightning.data.sources import store as source
from hct_lightning.data.store import remote, store
from hct_lightning.data.store.format import Recipe
from hct_lightning.data.store.prepare import prepare


class Web:
    """A server of a folder: what was asked of it, how many of the next answers fail, and which names have no end."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[str] = []
        self.failing = 0
        self.endless = ""
        web = self

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                web.asked.append(self.path)
                if web.failing:
                    web.failing -= 1
                    self.send_error(503)
                elif web.endless and self.path.endswith(web.endless):
                    self.send_response(200)
                    self.end_headers()
                    with contextlib.suppress(OSError):
                        while True:
                            self.wfile.write(bytes(2**16))
                else:
                    super().do_GET()

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    server = Web(tmp_path)
    yield server
    server.server.shutdown()
    server.server.server_close()


def make(photos: Path, root: Path, file_format: str = "raw") -> store.Store:
    paths = sorted(str(path) for path in photos.rglob("*.jpg"))[:4]
    decoding = Decoding(channels=3, size=(96, 128), geometry="cover", max_pixels=2**26)
    recipe = Recipe(decoding, file_format, None)
    prepare(
        Catalogue("pictures", ("a", "b"), Split(paths, [0, 1, 0, 1]), Split()),
        recipe,
        root,
        workers=1,
        skip_unreadable=False,
        progress=lambda items, _: items,
    )
    return store.Store(root)


def pixels(found: Catalogue, size: tuple[int, int] = (96, 128)) -> np.ndarray:
    reader = found.prepared.reader(replace(found.prepared.decoding, size=size))
    places = np.empty((len(found.train), *reader.shape), np.uint8)
    for path, place in zip(found.train.paths, places, strict=True):
        reader.into(path, place)
    return places


@pytest.mark.parametrize("file_format", ["raw", "png"])
def test_its_images_are_those_of_the_folder_and_come_once(tmp_path, photos, web, file_format):
    local = make(photos, tmp_path / "store", file_format).catalogue()
    cache = str(tmp_path / "cache")
    found = source.store(f"{web.url}/store/", cache=cache)
    assert (found.classes, found.train.labels) == (local.classes, local.train.labels)
    assert len(web.asked) == 1, "only store.json is read before an image is wanted"
    assert np.array_equal(pixels(found), pixels(local))
    assert np.array_equal(pixels(found, (48, 64)), pixels(local, (48, 64)))
    again = source.store(f"{web.url}/store", cache=cache)
    assert np.array_equal(pixels(again), pixels(local))
    assert len(web.asked) == 2 + 4, "store.json twice, each item once"


def test_a_store_that_was_made_anew_is_read_anew(tmp_path, photos, web):
    make(photos, tmp_path / "store")
    cache = str(tmp_path / "cache")
    before = pixels(source.store(f"{web.url}/store", cache=cache))
    manifest = tmp_path / "store" / "store.json"
    facts = json.loads(manifest.read_text())
    for item in facts["items"]:
        item["sha256"] = "0" * 64  # of another source file
        path = tmp_path / "store" / item["file"]
        np.save(path, 255 - np.load(path))
    manifest.write_text(json.dumps(facts))
    after = pixels(source.store(f"{web.url}/store", cache=cache))
    assert np.array_equal(after, 255 - before)


def test_many_threads_want_one_item(tmp_path, photos, web):
    item = make(photos, tmp_path / "store").items[0]
    mirror = remote.Mirror(f"{web.url}/store", str(tmp_path / "cache"))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: mirror.bring(item.file, item.bytes), range(8)))
    held = [path for path in mirror.folder.rglob("*") if path.is_file()]
    assert {path.name for path in held} == {"store.json", Path(item.file).name}
    assert (mirror.folder / item.file).read_bytes() == (tmp_path / "store" / item.file).read_bytes()


def test_a_network_that_fails_now_and_then(tmp_path, photos, web, monkeypatch):
    item = make(photos, tmp_path / "store").items[0]
    mirror = remote.Mirror(f"{web.url}/store", str(tmp_path / "cache"))
    monkeypatch.setattr(remote.time, "sleep", lambda _: None)
    web.failing = 2
    mirror.bring(item.file, item.bytes)
    assert (mirror.folder / item.file).stat().st_size == item.bytes
    web.failing = 100
    with pytest.raises(OSError, match=r"http://.*503"):
        mirror.bring("train/a/another.npy", 5)


def test_what_is_missing_or_cut_off_is_named(tmp_path, photos, web):
    first, second, *_ = make(photos, tmp_path / "store").items
    mirror = remote.Mirror(f"{web.url}/store", str(tmp_path / "cache"))
    (tmp_path / "store" / first.file).unlink()
    with pytest.raises(UnreadableImageError, match=f"{first.file} is missing"):
        mirror.bring(first.file, first.bytes)
    with (tmp_path / "store" / second.file).open("r+b") as file:
        file.truncate(second.bytes // 2)
    with pytest.raises(UnreadableImageError, match="bytes where store"):
        mirror.bring(second.file, second.bytes)
    assert [path.name for path in mirror.folder.rglob("*") if path.is_file()] == ["store.json"]


def test_no_more_is_taken_than_was_said(tmp_path, photos, web, monkeypatch):
    """A server may send for ever."""
    item = make(photos, tmp_path / "store").items[0]
    mirror = remote.Mirror(f"{web.url}/store", str(tmp_path / "cache"))
    web.endless = ".npy"
    with pytest.raises(UnreadableImageError, match=rf"http://.*npy: more than the {item.bytes} bytes that store.json"):
        mirror.bring(item.file, item.bytes)
    assert [path.name for path in mirror.folder.rglob("*") if path.is_file()] == ["store.json"]
    monkeypatch.setattr(remote, "_MANIFEST", 2**20)
    web.endless = ".json"
    with pytest.raises(ValueError, match=r"data\.root=http://.*: store\.json has more than the 1 MiB that are read"):
        remote.Mirror(f"{web.url}/store", str(tmp_path / "cache"))


def test_an_item_is_no_larger_than_an_image(tmp_path, photos, web):
    make(photos, tmp_path / "store")
    manifest = tmp_path / "store" / "store.json"
    facts = json.loads(manifest.read_text())
    facts["items"][1]["bytes"] = 10**12
    manifest.write_text(json.dumps(facts))
    with pytest.raises(ValueError, match=r"store.json is damaged: .* has 1000000000000 bytes, an image here at most"):
        source.store(f"{web.url}/store", cache=str(tmp_path / "cache"))


def test_a_full_disk_names_the_option(tmp_path, photos, web, monkeypatch):
    item = make(photos, tmp_path / "store").items[0]
    mirror = remote.Mirror(f"{web.url}/store", str(tmp_path / "cache"))

    def full(*_: object, **__: object) -> None:
        Path("/dev/full").write_bytes(b"x" * item.bytes)

    monkeypatch.setattr(mirror.files, "get_file", full)  # it is kept for all mirrors
    with pytest.raises(OSError, match=r"data\.cache=<folder>"):
        mirror.bring(item.file, item.bytes)


def test_a_store_names_no_file_outside_of_it(tmp_path, photos, web):
    make(photos, tmp_path / "store")
    manifest = tmp_path / "store" / "store.json"
    facts = json.loads(manifest.read_text())
    facts["items"][0]["file"] = "train/../../../outside.npy"
    manifest.write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="outside of the store"):
        source.store(f"{web.url}/store", cache=str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("{web}/none", "there is no store.json"),
        ("http://127.0.0.1:9/store", "can't be read"),
        ("nonsense://bucket/store", "can't be read.*nonsense"),
    ],
)
def test_a_store_that_is_not_there(tmp_path, web, url, reason):
    with pytest.raises(ValueError, match=reason):
        source.store(url.format(web=web.url), cache=str(tmp_path / "cache"))


# Becomes another user when everything is imported: Python itself may be out of that one's reach.
READ = """
import os, sys
import fsspec.implementations.local
from hct_lightning.data.sources.store import store
os.setgroups([]); os.setgid(65534); os.setuid(65534)
found = store(sys.argv[1], cache=sys.argv[2])
reader = found.prepared.reader(found.prepared.decoding)
for path in found.train.paths:
    print(int(reader(path).sum()), flush=True)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a_second_user_reads_what_the_first_has_cached(photos):
    """And is told what helps for what is not there yet."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        home.chmod(0o755)
        make(photos, home / "store")
        url, cache = f"file://{home}/store", home / "cache"
        mirror = remote.Mirror(url, str(cache))
        found = store.Store(mirror.folder, mirror).catalogue()
        reader = found.prepared.reader(found.prepared.decoding)
        first = [int(reader(path).sum()) for path in found.train.paths[:2]]
        command = [sys.executable, "-c", READ, url, str(cache)]
        second = subprocess.run(command, capture_output=True, text=True)
        assert [int(line) for line in second.stdout.splitlines()] == first
        refused = second.stderr.splitlines()[-1]
        assert re.search(r"Permission denied, .* give a cache of your own with data\.cache=<folder>", refused)


def test_names_that_mean_something_in_a_url(tmp_path, web):
    names = ["IMG #1.jpg", "a?b.jpg", "50%20x.jpg", "100%.jpg", "a+b c.jpg"]
    for i, name in enumerate(names):
        Image.new("RGB", (140, 140), (i, i, i)).save(tmp_path / name)
    decoding = Decoding(channels=3, size=(96, 96), geometry="cover", max_pixels=2**26)
    paths = [str(tmp_path / name) for name in names]
    prepare(
        Catalogue("pictures", ("a",), Split(paths, [0] * len(paths)), Split()),
        Recipe(decoding, "raw", None),
        tmp_path / "store",
        workers=1,
        skip_unreadable=False,
        progress=lambda items, _: items,
    )
    mirror = remote.Mirror(f"{web.url}/store", str(tmp_path / "cache"))
    for item in store.Store(tmp_path / "store").items:
        mirror.bring(item.file, item.bytes)
        assert (mirror.folder / item.file).read_bytes() == (tmp_path / "store" / item.file).read_bytes()
