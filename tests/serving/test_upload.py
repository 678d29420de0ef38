"""The bytes of an image, as a server is sent them."""

import asyncio
import os
from pathlib import Path

import pytest
from fastapi import Request
from starlette.exceptions import HTTPException  # of FastAPI, and of forms

from hct_lightning.serving.upload import as_file, image_of

PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)
BIG = b"\xff\xd8\xff" + os.urandom(3_000_000)  # more than a form keeps in memory by itself


def request(body: bytes, content_type: str = "application/octet-stream") -> Request:
    async def receive() -> dict:
        return {"type": "http.request", "body": body, "more_body": False}

    return Request(
        {"type": "http", "app": None, "method": "POST", "headers": [(b"content-type", content_type.encode())]}, receive
    )


def form(*files: bytes, name: str = "image") -> Request:
    parts = (
        b'--x\r\nContent-Disposition: form-data; name="%s"; filename="../a.png"\r\n\r\n%s\r\n'
        % (name.encode(), content)
        for content in files
    )
    return request(b"".join(parts) + b"--x--\r\n", "multipart/form-data; boundary=x")


@pytest.mark.parametrize("content", [PNG, BIG], ids=["png", "jpeg"])
def test_a_body_and_a_form_are_the_same(content):
    assert asyncio.run(image_of(request(content))) == content
    assert asyncio.run(image_of(form(content, name="anything"))) == content


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (request(b""), "there is no image"),
        (request(b"GIF89a..."), "send PNG, JPEG or TIFF"),
        (form(b"<svg/>"), "send PNG, JPEG or TIFF"),
        (form(), "there is no image"),
        (form(PNG, PNG), "Too many files"),
        (request(b"nothing of a form", "multipart/form-data"), "boundary"),
    ],
    ids=["empty", "gif", "svg", "no file", "two files", "no form"],
)
def test_what_is_no_image_is_refused_with_the_reason(given, reason):
    with pytest.raises(HTTPException, match=reason) as raised:
        asyncio.run(image_of(given))
    assert raised.value.status_code == 400


def test_nothing_is_written_to_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))  # where a form's file would go
    content = asyncio.run(image_of(form(BIG)))
    with as_file(content) as path:
        assert os.readlink(path).startswith("/memfd:")
        assert Path(path).read_bytes() == BIG
    assert not os.path.exists(path)


@pytest.mark.parametrize("kind", ["image/png", "multipart/form-data; boundary=x"])
def test_a_client_that_goes_is_no_failure_of_the_server(kind):
    async def receive() -> dict:
        return {"type": "http.disconnect"}

    scope = {"type": "http", "app": None, "method": "POST", "headers": [(b"content-type", kind.encode())]}
    with pytest.raises(HTTPException) as raised:
        asyncio.run(image_of(Request(scope, receive)))
    assert raised.value.status_code == 499
