"""A side of the inference benchmark that is ours: an artifact, a checkpoint or a network of timm."""

import tempfile
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from hct_lightning.benchmarks.harness.side import serve
from hct_lightning.benchmarks.inference.subjects import find, load
from hct_lightning.data.feeding.images import Images
from hct_lightning.data.feeding.loader import Loader, auto_workers
from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.data.reading.readers import FileReader
from hct_lightning.deploy.artifact import read_description
from hct_lightning.machine import runtime
from hct_lightning.machine.devices import peak_memory_gib
from hct_lightning.runs.predictions import Predictions
from hct_lightning.training.by_artifact import load_for_many, predict_all

TOGETHER = " at a time"  # of a part of predicting a folder: on several images, each on a thread


def predicting(part: str, model: str, height: int, width: int, image: str, count: int) -> None:
    """A folder of `count` images, all the same file: predicted with an artifact, or a part of that alone.

    Args:
        part: `read` or `compute` one image after the other, or `predict`, which does both and writes the CSV; with
            ` at a time` as many at a time as `task=predict` takes.
        model: the artifact's folder.
        height: of the network's input.
        width: likewise.
        image: the file.
        count: how many of it.
    """
    runtime.keep_memory()
    reader = FileReader(replace(Decoding.from_json(read_description(Path(model))["decoding"]), size=(height, width)))
    artifact = load_for_many(Path(model), reader, count, most=None if part.endswith(TOGETHER) else 1)
    images = Images([image] * count, [0] * count, reader)
    workers = auto_workers("auto")
    pixels = reader(image)[None]
    pool = ThreadPoolExecutor(artifact.streams)

    def work() -> None:
        if part == "read":
            for _ in Loader(images, [[i] for i in range(count)], num_workers=workers):
                pass
        elif part.startswith("compute"):
            deque(pool.map(artifact, [pixels] * count), maxlen=0)
        else:
            with tempfile.TemporaryDirectory() as folder:
                file = Predictions(Path(folder) / "out.csv", images.paths, artifact.classes, {})
                file.open()
                predict_all(artifact, images, file, num_workers=workers)
                file.finish()

    serve(work)


def serving(model: str, height: int, width: int, batch_size: int, device: str, image: str | None = None) -> None:
    """With `image` its work is a file to its answer, read by all threads: there is no other image."""
    runtime.keep_memory()
    started = time.perf_counter()
    found = find(model)
    probabilities, facts = load(found, device)
    load_s = time.perf_counter() - started
    size = (height, width)
    shape = (batch_size, *size, found.decoding.channels)
    on_gpu = device == "cuda"
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, pin_memory=on_gpu).permute(0, 3, 1, 2)  # as read
    if image:
        read = FileReader(replace(found.decoding, size=size), torch.get_num_threads())

    def work() -> None:
        probabilities(read(image)[None] if image else pixels)

    peak = partial(peak_memory_gib, torch.device(device))
    serve(work, peak=peak, load_s=load_s, threads=torch.get_num_threads(), **facts)
