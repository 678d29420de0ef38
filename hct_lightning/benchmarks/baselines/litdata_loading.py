"""The baseline of loading: an epoch of LitData's loader over the pixels of a raw store."""

import contextlib
import sys
from pathlib import Path

import numpy as np
import torch

from hct_lightning.benchmarks.harness.side import serve


def loading(root: str, output: str, workers: int) -> None:
    """Writes the arrays of the store at `root` to `output` in LitData's format, and loads them from there."""
    import litdata  # pyright: ignore[reportMissingImports] -- measured where it is installed

    items = sorted(str(path) for path in Path(root).rglob("*.npy"))
    with contextlib.redirect_stdout(sys.stderr):  # standard output answers the benchmark
        litdata.optimize(
            fn=_load_tensor,
            inputs=items,
            output_dir=output,
            chunk_bytes="512MB",
            num_workers=1,
        )
    shape = np.load(items[0], mmap_mode="r").shape
    batches = litdata.StreamingDataLoader(
        litdata.StreamingDataset(output, shuffle=False),
        batch_size=1,
        num_workers=workers,
        persistent_workers=True,
    )

    def read() -> None:
        for images in batches:
            assert isinstance(images, torch.Tensor)
            assert images.shape[1:] == shape

    serve(read)


def _load_tensor(path: str) -> torch.Tensor:
    return torch.from_numpy(np.load(path))
