"""Folders with what the pages speak of."""

import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from documentation import SMALL


@pytest.fixture(scope="module")
def home(tmp_path_factory, photos) -> Path:
    """A folder with what the pages speak of: photos, a list of them, a file, a set laid out as LIU4K is."""
    home = tmp_path_factory.mktemp("docs")
    for photo in photos.rglob("*.jpg"):  # thrice, so that every class also validates
        (home / "photos" / photo.parent.name).mkdir(parents=True, exist_ok=True)
        for copy in "abc":
            shutil.copy(photo, home / "photos" / photo.parent.name / f"{copy}-{photo.name}")
    copies = sorted((home / "photos").rglob("*.jpg"))
    rows = [f"{path.relative_to(home)},{i % 2}" for i, path in enumerate(copies)]
    (home / "list.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    shutil.copy(next(photos.rglob("*.jpg")), home / "photo.jpg")
    for split in ("train", "valid"):
        for ours, theirs in {"Plant": "Street"}.items() | {(n, n) for n in ("Animal", "Building", "Mountain")}:
            shutil.copytree(home / "photos" / ours, home / "LIU4K" / split / theirs)
    return home


@pytest.fixture(scope="module")
def scenes_table(trained, environment, home) -> Path:
    """A table of scenes, which the small run knows, with a test split and the columns that the pages have."""
    rows = ["path,label,split,group,repository"]
    for i, path in enumerate(sorted(Path(environment["HCT_DATA"]).glob("scenes/*128px*/*/*/*.jpg"))):
        rows.append(f"{path},{path.parent.name},{('train', 'valid', 'test')[i % 3]},{i},{i % 2}")
    (home / "scenes.csv").write_text("\n".join(rows) + "\n")
    return home / "scenes.csv"


@pytest.fixture(scope="module")
def pages(environment, photos) -> Path:
    """Photos in the place of the pages, thrice, so that every class also validates."""
    root = Path(environment["HCT_DATA"]) / "pages"
    rows = ["path,label,split,group,repository"]
    for i, photo in enumerate(sorted(photos.rglob("*.jpg"))):
        for split in ("train", "valid", "test"):
            file = root / split / f"{i}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(photo, file)
            rows.append(f"{file},{photo.parent.name},{split},{split}{i},owner/name")
    (root / "pages.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture(scope="module")
def openvino_int8(cli, trained, home) -> Path:
    """This artifact of a copy of the small run."""
    run = shutil.copytree(trained, home / "copy")
    small = ("export.calibration=2", "export.evaluation=0")
    cli("task=export", f"run={run}", "export=[openvino_int8]", *small, cwd=home)
    return run / "artifacts" / "openvino_int8"


@pytest.fixture(scope="module")
def needles(cli, home) -> Path:
    """A checkpoint of a small run on drawn needles."""
    run = home / "needles"
    cli(
        "data=needles",
        *SMALL,
        "data.scene_size=128",
        "data.train=24",
        "data.valid=10",
        "export=[]",
        f"hydra.run.dir={run}",
        cwd=home,
    )
    return run / "checkpoints" / "best.ckpt"


@pytest.fixture(scope="module")
def store(cli, home) -> Path:
    """A prepared store of the photos, served below the url that `bucket` gives."""
    size = "data.resolution=256"  # of which smaller ones are derived
    cli("task=prepare", *SMALL[1:], size, "data=folder", "data.root=photos", "prepare.output=prepared", cwd=home)
    return home / "prepared"


@pytest.fixture(scope="module")
def bucket(store) -> Iterator[str]:
    """A web server with the store, in the place of an object store."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=store.parent)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/{store.name}"
        server.shutdown()
