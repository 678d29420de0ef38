"""A side of the inference benchmark that is ours: an artifact, a checkpoint or a network of timm.

python -m hct_lightning.benchmarks.inference.side MODEL HEIGHT WIDTH [--batch-size=1] [--device=cpu] [--image=FILE]

With `--image` the work is a file to its answer, read as the data engine reads it.
"""

import argparse
import time
from dataclasses import replace

import torch

from hct_lightning.benchmarks.harness.side import serve
from hct_lightning.benchmarks.inference.subjects import find, load
from hct_lightning.data.reading.readers import FileReader
from hct_lightning.machine import runtime


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("height", type=int)
    parser.add_argument("width", type=int)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--image")
    given = parser.parse_args()
    runtime.keep_memory()
    started = time.perf_counter()
    model = find(given.model)
    probabilities, facts = load(model, given.device)
    load_s = time.perf_counter() - started
    size = (given.height, given.width)
    if given.image:
        read = FileReader(replace(model.decoding, size=size))
    shape = (given.batch_size, *size, model.decoding.channels)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8).permute(0, 3, 1, 2)  # as read

    def work() -> None:
        probabilities(read(given.image)[None] if given.image else pixels)

    serve(work, load_s=load_s, threads=torch.get_num_threads(), **facts)


if __name__ == "__main__":
    main()
