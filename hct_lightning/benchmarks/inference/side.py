"""A side of the inference benchmark that is ours: an artifact, a checkpoint or a network of timm."""

import time
from dataclasses import replace
from functools import partial

import torch

from hct_lightning.benchmarks.harness.side import serve
from hct_lightning.benchmarks.inference.subjects import find, load
from hct_lightning.data.reading.readers import FileReader
from hct_lightning.deploy.artifact import load_artifact
from hct_lightning.machine import runtime
from hct_lightning.machine.devices import peak_memory_gib


def loaded(model: str, height: int, width: int, batch_size: int, device: str, image: None = None) -> None:
    """An artifact as a program of three lines has it: nothing of ours is set but by loading it."""
    started = time.perf_counter()
    artifact = load_artifact(model)
    load_s = time.perf_counter() - started
    shape = (batch_size, height, width, artifact.description["input"]["channels"])
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8).permute(0, 3, 1, 2)  # as read
    facts = {key: artifact.description[key] for key in ("precision", "size_bytes")}
    serve(lambda: artifact(pixels).sum().item(), load_s=load_s, threads=torch.get_num_threads(), **facts)


def serving(model: str, height: int, width: int, batch_size: int, device: str, image: str | None = None) -> None:
    """With `image` its work is a file to its answer, read as the data engine reads it."""
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
        read = FileReader(replace(found.decoding, size=size))

    def work() -> None:
        probabilities(read(image)[None] if image else pixels)

    peak = partial(peak_memory_gib, torch.device(device))
    serve(work, peak=peak, load_s=load_s, threads=torch.get_num_threads(), **facts)
