"""A side that has an artifact as a program of three lines has it, and so imports nothing else of ours."""

import time

import torch

from hct_lightning import load_artifact
from hct_lightning.benchmarks.harness.side import serve


def loaded(model: str, height: int, width: int, batch_size: int, device: str, image: None = None) -> None:
    """Nothing is set but by loading it."""
    started = time.perf_counter()
    artifact = load_artifact(model)
    load_s = time.perf_counter() - started
    shape = (batch_size, height, width, artifact.description["input"]["channels"])
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8).permute(0, 3, 1, 2)  # as read
    facts = {key: artifact.description[key] for key in ("precision", "size_bytes")}
    serve(lambda: artifact(pixels).sum().item(), load_s=load_s, threads=torch.get_num_threads(), **facts)
