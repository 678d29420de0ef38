"""Predicting with an artifact in the place of a checkpoint: on the CPU, several images at a time."""

import json
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch

from hct_lightning.data.feeding.images import Images
from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.data.reading.readers import Reader
from hct_lightning.deploy.artifact import BY_TORCH, ONE_AT_A_TIME, Artifact, load_artifact, read_descriptions
from hct_lightning.machine import runtime
from hct_lightning.machine.high_water import peak_gib, resident_bytes
from hct_lightning.runs.console import track
from hct_lightning.runs.predictions import Predictions
from hct_lightning.training.inference_memory import SHARE
from hct_lightning.training.memory_plan import available_bytes

log = logging.getLogger(__name__)

T = TypeVar("T")


def find_artifact(run: Path, name: str, option: str = "predict.artifact") -> Path:
    """The folder of an artifact of the run in `run`, or of any other, that an option names.

    Raises:
        ValueError: when there is none, with those that the run has.
    """
    for folder in (run / "artifacts" / name, Path(name).expanduser()):
        if (folder / "artifact.json").is_file():
            return folder
    there = ", ".join(read_descriptions(run / "artifacts")) or "none"
    raise ValueError(
        f"{option}={name}: no artifact of this run (it has {there}), and no folder of one; make it with task=export"
    )


def decoding_of(description: Mapping[str, Any], given: Mapping[str, Any]) -> Decoding:
    """How the artifact's images are read.

    Args:
        description: what `artifact.json` says.
        given: options of the group `data` that the command line names.

    Raises:
        ValueError: when they say otherwise; the size alone may differ, where the artifact leaves it open.
    """
    made = Decoding.from_json(description["decoding"])
    asked = made.with_options(given)
    for name, value in asked.as_json().items():
        open_size = name == "size" and value and description["input"]["max"] is None
        if value != (mine := made.as_json()[name]) and not open_size:
            option = "predict.resolution" if name == "size" else f"data.{name}"
            raise ValueError(
                f"{option}={json.dumps(value)}: this artifact takes images as its network was trained on them, with "
                f"{json.dumps(mine)}; leave it out, or predict with the checkpoint"
            )
    return asked


def load_for_many(
    folder: Path,
    reader: Reader,
    images: int,
    *,
    threads: int | None = None,
    most: int | None = None,
    trust: bool = False,
) -> Artifact:
    """The artifact for so many images: `streams` of it go through at a time, one on each thread.

    That is faster than one after the other on all threads, for not all of a network can be divided among them, and
    reading needs the threads too. One blank image says what memory each takes. Images of their own sizes go through one
    after the other.

    Args:
        folder: of the artifact.
        reader: of the images.
        images: their number.
        threads: in all; None: all there are.
        most: of them at a time; None: as many as there are threads.
        trust: as of `load_artifact`.
    """
    threads = threads or runtime.cpu_count()
    streams = min(images, threads, most or threads)
    before = resident_bytes()
    artifact = load_artifact(folder, threads=threads, trust=trust)
    if streams < 2 or reader.varies or artifact.description["runtime"] in ONE_AT_A_TIME:
        return artifact
    height, width, channels = reader.shape
    artifact(torch.zeros((1, height, width, channels), dtype=torch.uint8).permute(0, 3, 1, 2))
    # No less than the image: a process that held more before has no higher peak now.
    taken = max(int(peak_gib() * 2**30) - before, height * width * channels)
    available = available_bytes(torch.device("cpu"), 1)
    fit = 1 + int(SHARE * available / taken)
    if fit < streams:
        log.info(
            "%d images at a time, not %d: each takes %.1f GiB of memory, and %.1f are available",
            *(fit, streams, taken / 2**30, available / 2**30),
        )
    streams = min(streams, fit)
    if streams > 1 and artifact.description["runtime"] not in BY_TORCH:
        return load_artifact(folder, threads=threads, streams=streams, trust=trust)
    torch.set_num_threads(threads // streams)  # of each that calls; what is loaded is the same
    artifact.streams = streams
    return artifact


def predict_all(artifact: Artifact, images: Images, file: Predictions, *, num_workers: int) -> None:
    """Writes a row for each image to `file`, which is open, its next row that of the first.

    Threads read an image each and give it to the artifact, which computes as many at once as it has streams.

    Args:
        artifact: answers.
        images: to predict; those that are skipped get a row with the reason.
        file: grows.
        num_workers: threads more than streams, which read ahead.
    """
    computing = threading.Semaphore(artifact.streams)

    def answer(i: int) -> list[float] | None:
        pixels, _, index = images[i]
        if index < 0:
            return None
        with computing:
            return artifact(pixels[None])[0].tolist()

    threads = artifact.streams + num_workers
    answers = _in_order(answer, len(images), threads)
    for i, probabilities in enumerate(track("predicting", answers, len(images), threads)):
        path = images.paths[i]
        file.append([file.row(path, probabilities, (images.skipped or {}).get(path, ""))])


def _in_order(work: Callable[[int], T], count: int, threads: int) -> Iterator[T]:
    """What `work` gives for 0 to count - 1, which so many threads do; raises what it raises, in its turn."""
    pool = ThreadPoolExecutor(threads, "predict")
    waiting: deque[Future[T]] = deque()
    try:
        for i in range(count):
            waiting.append(pool.submit(work, i))
            if len(waiting) == 2 * threads:  # answers are small: one that takes long need not stop the others
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
