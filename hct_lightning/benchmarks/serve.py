"""An artifact behind HTTP against the same one called in a loop: from JPEG files to answers.

loop: one process reads a file and calls the artifact, one image after the other. served: clients send the files' bytes,
several at a time, to `task=serve`. Both have all of the machine in turn.
"""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hct_lightning.benchmarks.harness.interleave import interleave, paired_ratio
from hct_lightning.benchmarks.harness.side import process, serve
from hct_lightning.benchmarks.inference.fresh import make_run
from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.data.reading.geometry import as_size
from hct_lightning.data.reading.readers import FileReader
from hct_lightning.data.sources import drawing
from hct_lightning.deploy.artifact import load_artifact
from hct_lightning.machine import runtime
from hct_lightning.runs import signals

PATIENCE_S = 300  # for the server to be ready


def benchmark(
    *,
    run: str | None,
    artifact: str,
    resolution: int | Sequence[int],
    images: int,
    clients: int,
    batch_size: int,
    warmup: int,
    rounds: int,
    output: str,
) -> dict[str, Any]:
    """Measures and gives the ratio `served_vs_loop` of their images/s, and a row per side.

    Args:
        run: its folder, with the artifact; None: one of an untrained HCT is made.
        artifact: its name.
        resolution: of the images, and of the network that is made.
        images: that each side answers in a round.
        clients: requests at a time.
        batch_size: `serve.batch_size`.
        warmup: rounds that do not count.
        rounds: that do.
        output: folder for what is made.
    """
    out = Path(output)
    size = as_size(resolution)
    home = Path(run) if run else make_run(out / "fresh", size, [artifact])
    folder = home / "artifacts" / artifact
    files = draw(out / "images", size, images)
    given = {"artifact": str(folder), "files": [str(file) for file in files]}
    measured = interleave(
        {
            "loop": process(loop, **given),
            "served": process(served, **given, clients=clients, batch_size=batch_size, home=str(out / "served")),
        },
        warmup=warmup,
        rounds=rounds,
    )
    rows = []
    for name, side in measured.items():
        p50, p99 = np.percentile(np.concatenate(side.results), (50, 99)).tolist()
        row = {"side": name, "images_per_s": images / side.median, "p50_ms": 1000 * p50, "p99_ms": 1000 * p99}
        rows.append(row | {"at_a_time": clients if name == "served" else 1, "peak_gib": side.peak_gib})
    ratio = paired_ratio(measured["loop"], measured["served"])
    return {
        "title": f"From a JPEG of {size[0]}x{size[1]} pixels to the answer, {artifact}",
        "ratios": {"served_vs_loop": ratio},
        "rows": rows,
    }


def draw(folder: Path, size: tuple[int, int], count: int) -> list[Path]:
    """Scenes of this size as JPEG; three are drawn, the others are the same, mirrored or not."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{i}.jpg" for i in range(count)]
    drawn = [Image.fromarray(drawing.draw(0, i, max(size))).crop((0, 0, size[1], size[0])) for i in range(3)]
    for i, file in enumerate(files):
        image = drawn[i % 3]
        (image if i % 2 else image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)).save(file, quality=95)
    return files


def loop(artifact: str, files: list[str]) -> None:
    """Its work gives the seconds of each image."""
    runtime.keep_memory()
    model = load_artifact(artifact)
    read = FileReader(Decoding.from_json(model.description["decoding"]))

    def work() -> list[float]:
        times = []
        for file in files:
            started = time.perf_counter()
            model(read(file)[None])
            times.append(time.perf_counter() - started)
        return times

    serve(work)


def served(artifact: str, files: list[str], clients: int, batch_size: int, home: str) -> None:
    """Its work gives the seconds of each image, from the request to the whole answer; the server's folder is `home`."""
    contents = [Path(file).read_bytes() for file in files]
    options = (f"serve.batch_size={batch_size}", f"serve.waiting={2 * clients}", f"hydra.run.dir={home}")
    with server(artifact, *options) as port:

        def ask(content: bytes) -> float:
            started = time.perf_counter()
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
                connection.request("POST", "/predict", content)
                answer = connection.getresponse()
                text = answer.read()
            if answer.status != 200:
                raise RuntimeError(f"status {answer.status}: {text.decode()}")
            return time.perf_counter() - started

        with ThreadPoolExecutor(clients) as pool:
            serve(lambda: list(pool.map(ask, contents)))


@contextlib.contextmanager
def server(artifact: str, *overrides: str) -> Iterator[int]:
    """`task=serve` in a process of its own, when it is ready: its port."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "hct_lightning", "task=serve", f"serve.artifact={artifact}", *overrides]
    command += [f"serve.port={port}", "serve.token=null"]
    options: dict[str, Any] = {"stdout": subprocess.DEVNULL, "preexec_fn": signals.end_with_parent}
    with subprocess.Popen(command, start_new_session=True, **options) as started:
        try:
            until = time.monotonic() + PATIENCE_S
            while not is_ready(port):
                if started.poll() is not None or time.monotonic() > until:
                    raise RuntimeError("the server has not begun; see its error above")
                time.sleep(0.1)
            yield port
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGINT)


def is_ready(port: int) -> bool:
    try:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
    except OSError:
        return False
