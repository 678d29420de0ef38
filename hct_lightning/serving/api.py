"""The artifact in a process of its own, by LitServe: threads read images, and those that are ready go through together."""

import logging
import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor

from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.data.reading.geometry import Region, Size, choose_region
from hct_lightning.data.reading.image import UnreadableImageError, probe, read_image
from hct_lightning.deploy.artifact import load_artifact, read_description
from hct_lightning.deploy.extra import extra
from hct_lightning.machine.runtime import cpu_count
from hct_lightning.serving.occlusion import occlusion
from hct_lightning.serving.upload import as_file, image_of

with extra("serve"):
    from fastapi import Depends, HTTPException, Request
    from litserve import LitAPI
    from litserve.loops.base import LitLoop
    from litserve.utils import LitAPIStatus, LoopResponseType, PickleableHTTPException

log = logging.getLogger(__name__)


class Asked(NamedTuple):
    """A request on its way to the artifact: the bytes of an image, and whether the map is wanted too."""

    content: bytes
    map: bool


class Picture(NamedTuple):
    """pixels: c h w uint8. size: (height, width) of the file, upright. region: what of it the network sees."""

    pixels: Tensor
    size: Size
    region: Region
    map: bool


async def asked(request: Request, map: bool = False) -> Asked:
    """What a request asks for; LitServe sends it to the artifact's process."""
    return Asked(await image_of(request), map)


class ArtifactAPI(LitAPI):
    """Answers requests with an artifact.

    Args:
        folder: of the artifact.
        batch_size: images that go through the network together at most.
        max_pixels: larger images are refused, and those that the artifact itself refuses.
        map_tiles: of a map, in each direction; 0: none are made.
        threads: of a call; None leaves it to the runtime.
        keep_memory: see `runtime.keep_memory`.
        trust: see `load_artifact`.

    Raises:
        ValueError: for an artifact of images at their own sizes.
    """

    def __init__(
        self,
        folder: Path,
        *,
        batch_size: int,
        max_pixels: int,
        map_tiles: int,
        threads: int | None,
        keep_memory: bool,
        trust: bool,
    ) -> None:
        super().__init__(max_batch_size=batch_size, loop=ReadAhead())
        self.folder = folder
        self.map_tiles = map_tiles
        self.loading = {"threads": threads, "keep_memory": keep_memory, "trust": trust}
        decoding = Decoding.from_json(read_description(folder)["decoding"])
        if decoding.size is None:
            raise ValueError(
                f"{folder} takes images at their own sizes, which can't be put into batches; use task=predict, or export a "
                "network that was trained at one data.resolution"
            )
        self.decoding = replace(decoding, max_pixels=min(decoding.max_pixels, max_pixels))

    def setup(self, device: str) -> None:
        self.artifact = load_artifact(self.folder, **self.loading)
        assert self.decoding.size, "an artifact's is known"
        shape = (self.decoding.channels, *self.decoding.size)
        for count in (1, self.max_batch_size):  # the first calls take longer than the others
            self.artifact(torch.zeros(count, *shape, dtype=torch.uint8))

    def decode_request(self, request: Annotated[Asked, Depends(asked)]) -> Picture:
        """Reads the image as training did.

        Raises:
            HTTPException: 400 with the reason why it can't be read.
        """
        with as_file(request.content) as path:
            try:
                _, *size = probe(path, max_pixels=self.decoding.max_pixels)
                height, width = size
                pixels = read_image(path, self.decoding)
            except UnreadableImageError as error:
                reason = str(error).removeprefix(f"{path}: ").removesuffix("; remove or replace the file")
                raise HTTPException(400, reason.replace("data.max_pixels", "serve.max_pixels")) from error
        assert self.decoding.size, "an artifact's is known"
        region = choose_region((height, width), self.decoding.size, self.decoding.geometry)
        return Picture(pixels, (height, width), region, request.map and self.map_tiles > 0)

    def predict(self, x: list[Picture]) -> list[dict[str, Any]]:
        """The answers to several images, without a map."""
        return [self._answer(given) for given in self.artifact(torch.stack([picture.pixels for picture in x]))]

    def explain(self, picture: Picture) -> dict[str, Any]:
        """The answer to one, with its map."""
        found = occlusion(self.artifact, picture.pixels, self.map_tiles, at_a_time=self.max_batch_size)
        shown = {"drop": found.drop.tolist(), "region": list(picture.region), "size": list(picture.size)}
        return self._answer(found.probabilities) | {"map": shown}

    def _answer(self, probabilities: Tensor) -> dict[str, Any]:
        by_class = dict(zip(self.artifact.classes, probabilities.tolist(), strict=True))
        return {"class": self.artifact.classes[int(probabilities.argmax())], "probabilities": by_class}


class ReadAhead(LitLoop):
    """LitServe's own loop for batches asks its queue a thousand times a second, reads one image after the other, and gives
    all of a batch the error of one. This one waits, reads in threads, and answers each by itself.
    """

    def run(
        self,
        lit_api: ArtifactAPI,
        device: str,
        worker_id: int,
        request_queue: Any,
        transport: Any,
        workers_setup_status: Mapping[str, str],
        callback_runner: Any,
    ) -> None:
        ready: queue.Queue[tuple[Any, Picture]] = queue.Queue(maxsize=2 * lit_api.max_batch_size)

        def read() -> None:
            while True:
                *whose, request = request_queue.get()
                try:
                    if lit_api.request_timeout and time.monotonic() - whose[-1] > lit_api.request_timeout:
                        raise HTTPException(504, f"the image has waited for {lit_api.request_timeout:g} s")
                    ready.put((whose, lit_api.decode_request(request)))
                except Exception as error:
                    self.refuse(transport, whose, error)

        for _ in range(min(4, cpu_count())):
            threading.Thread(target=read, daemon=True).start()
        while True:
            self.answer(lit_api, transport, self.gather(ready, lit_api.max_batch_size))

    @staticmethod
    def gather(ready: queue.Queue, most: int) -> list[tuple[Any, Picture]]:
        """The next image that has been read, and others that already wait."""
        batch = [ready.get()]
        while len(batch) < most and not ready.empty():
            batch.append(ready.get())
        return batch

    def answer(self, api: ArtifactAPI, transport: Any, batch: list[tuple[Any, Picture]]) -> None:
        """Answers all of them; those with a map last, for they take long."""
        started = time.monotonic()
        plain = [(whose, picture) for whose, picture in batch if not picture.map]
        try:
            answers = api.predict([picture for _, picture in plain]) if plain else []
            for (whose, _), answer in zip(plain, answers, strict=True):
                self.send(transport, whose, answer, started)
        except Exception as error:
            for whose, _ in plain:
                self.refuse(transport, whose, error)
        for whose, picture in batch:
            if picture.map:
                try:
                    self.send(transport, whose, api.explain(picture), time.monotonic())
                except Exception as error:
                    self.refuse(transport, whose, error)

    def send(self, transport: Any, whose: Any, answer: dict[str, Any], started: float) -> None:
        """`time_ms`: since the request was whole. `network_ms`: of these, in the network."""
        now, (*_, came) = time.monotonic(), whose
        times = {"time_ms": round(1000 * (now - came), 2), "network_ms": round(1000 * (now - started), 2)}
        self._put(transport, whose, answer | times, LitAPIStatus.OK)

    def refuse(self, transport: Any, whose: Any, error: Exception) -> None:
        """With its own reason where the image is to blame, else 500: what is wrong here is for the log."""
        if isinstance(error, HTTPException):
            self._put(transport, whose, PickleableHTTPException.from_exception(error), LitAPIStatus.ERROR)
        else:
            log.error("a request has failed", exc_info=error)
            self._put(transport, whose, PickleableHTTPException(500, "the server has failed"), LitAPIStatus.ERROR)

    def _put(self, transport: Any, whose: Any, answer: Any, status: Any) -> None:
        response_queue, uid, _ = whose
        self.put_response(transport, response_queue, uid, answer, status, LoopResponseType.REGULAR)
