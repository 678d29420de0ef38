"""What a request brings: the bytes of one image, in the body as it is or in a form, and in memory alone."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager

from hct_lightning.deploy.extra import extra

with extra("serve"):
    from fastapi import HTTPException, Request
    from starlette.datastructures import UploadFile
    from starlette.formparsers import MultiPartParser
    from starlette.requests import ClientDisconnect

GONE = 499  # a status of nginx's, which others know: nobody sees it but the log and the figures
PATIENCE_S = 30.0  # for a body to come
# How a PNG, a JPEG and a TIFF begin: of all that data/reading reads these are taken.
TAKEN = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MultiPartParser.spool_max_size = 2**40  # a form's file is never put on the disk; what comes in is limited before


async def image_of(request: Request) -> bytes:
    """The image of a request: its body, or the one file of a `multipart/form-data` form.

    Raises:
        HTTPException: 400 for what is no PNG, JPEG or TIFF, 408 when it does not come, 499 when the client goes.
    """
    try:
        async with asyncio.timeout(PATIENCE_S):
            content = await _content(request)
    except TimeoutError as error:
        raise HTTPException(408, f"the image has not come within {PATIENCE_S:.0f} s") from error
    except ClientDisconnect as error:
        raise HTTPException(GONE, "the client has gone") from error
    if not content:
        raise HTTPException(400, "there is no image; send its bytes as the body, or as the file of a form")
    if not content.startswith(TAKEN):
        raise HTTPException(400, "not an image that is taken; send PNG, JPEG or TIFF")
    return content


async def _content(request: Request) -> bytes:
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        return await request.body()
    async with request.form(max_files=1, max_fields=10) as form:
        files = [value for value in form.values() if isinstance(value, UploadFile)]
        return await files[0].read() if files else b""


@contextmanager
def as_file(content: bytes) -> Iterator[str]:
    """The path of a file that holds `content`, in memory: what reads files reads it, and the disk has nothing of it."""
    number = os.memfd_create("image")
    with os.fdopen(number, "wb") as file:
        file.write(content)
        file.flush()
        yield f"/proc/self/fd/{number}"
