"""The artifact's side of the server: what becomes of the bytes of an image, and who gets which answer."""

import io
import json
import queue
import shutil
import threading

import pytest
import torch
from fastapi import HTTPException
from PIL import Image

from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.data.reading.readers import FileReader
from hct_lightning.deploy import load_artifact
from hct_lightning.deploy.artifact import read_description
from hct_lightning.serving.api import ArtifactAPI, Asked


@pytest.fixture(scope="module")
def api(artifact):
    made = ArtifactAPI(
        artifact, batch_size=4, max_pixels=10**6, map_tiles=2, threads=None, keep_memory=False, trust=False
    )
    made.setup("cpu")
    made.request_timeout = 30
    return made


def picture(form: str, **options) -> bytes:
    noise = torch.randint(0, 256, (300, 500, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    file = io.BytesIO()
    Image.fromarray(noise.numpy()).save(file, form, **options)
    return file.getvalue()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF"])
def test_images_are_read_as_files_are(api, artifact, form, tmp_path):
    content = picture(form)
    (tmp_path / "image").write_bytes(content)
    read = FileReader(Decoding.from_json(read_description(artifact)["decoding"]))
    got = api.decode_request(Asked(content, map=False))
    assert torch.equal(got.pixels, read(str(tmp_path / "image")))
    assert got.size == (300, 500)
    assert got.region == (0, 25, 300, 450)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (picture("PNG")[:2000], "truncated"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "broken|not an image"),
        (picture("JPEG")[:50], "(?i)not an image|truncated"),
    ],
    ids=["cut", "no png", "no jpeg"],
)
def test_what_can_not_be_read_is_refused_with_the_reason(api, content, reason):
    with pytest.raises(HTTPException, match=reason) as raised:
        api.decode_request(Asked(content, map=False))
    assert raised.value.status_code == 400
    assert "/proc" not in raised.value.detail


def test_an_image_of_too_many_pixels_is_not_decoded(api):
    file = io.BytesIO()
    Image.new("1", (1001, 1000)).save(file, "PNG")
    with pytest.raises(HTTPException, match=r"1001x1000 pixels are more than serve\.max_pixels=1000000"):
        api.decode_request(Asked(file.getvalue(), map=False))


class Transport:
    """Where a loop's answers go: to a queue of this process."""

    def __init__(self) -> None:
        self.sent = queue.Queue()

    def send(self, item, consumer_id):
        self.sent.put(item)


def test_each_of_a_batch_gets_its_own_answer(api, artifact):
    """A broken image among whole ones, and one that asks for a map, in the loop as LitServe's process runs it."""
    asked, transport = queue.Queue(), Transport()
    whole = Asked(picture("PNG"), map=False)
    requests = {
        "whole": whole,
        "broken": Asked(whole.content[:2000], map=False),
        "map": Asked(whole.content, map=True),
        "again": whole,
    }
    for uid, request in requests.items():
        asked.put((0, uid, 1e12, request))
    asked.put((0, "late", -1e12, whole))
    args = (api, "cpu", 0, asked, transport, {}, None)
    threading.Thread(target=api.loop.run, args=args, daemon=True).start()
    got = {}
    for _ in range(5):
        uid, (answer, status, *_) = transport.sent.get(timeout=60)
        got[uid] = (answer, status)
    assert {uid: status for uid, (_, status) in got.items()} == {
        "whole": "OK",
        "broken": "ERROR",
        "map": "OK",
        "again": "OK",
        "late": "ERROR",
    }
    assert (got["broken"][0].status_code, got["late"][0].status_code) == (400, 504)
    exact = load_artifact(artifact)(api.decode_request(whole).pixels[None])[0]
    for uid in ("whole", "map", "again"):
        answer = got[uid][0]
        torch.testing.assert_close(torch.tensor(list(answer["probabilities"].values())), exact, rtol=0, atol=1e-5)
        assert answer["class"] == "abcd"[int(exact.argmax())]
    assert got["map"][0]["map"].keys() == {"drop", "region", "size"}


def test_an_artifact_of_images_at_their_own_sizes_is_refused(artifact, tmp_path):
    shutil.copytree(artifact, tmp_path / "native")
    about = json.loads((tmp_path / "native" / "artifact.json").read_text())
    about["decoding"]["size"] = None
    (tmp_path / "native" / "artifact.json").write_text(json.dumps(about))
    options = {"batch_size": 1, "max_pixels": 10**6, "map_tiles": 0, "threads": None, "keep_memory": False}
    with pytest.raises(ValueError, match=r"native takes images at their own sizes"):
        ArtifactAPI(tmp_path / "native", **options, trust=False)
