"""Whether what is promised of GPUs holds on this machine: a claim a row, `pass`, `fail` or `not run`.

For who has a GPU: the project was made without one. On the CPU those that need no GPU are checked all the same.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from hct_lightning.benchmarks.fit_step import random_batch
from hct_lightning.benchmarks.memory_grid import Point, in_a_fresh_process, measured_bytes, take_steps
from hct_lightning.data.dataset import IMAGENET_MEAN, IMAGENET_STD
from hct_lightning.machine.devices import best_device
from hct_lightning.machine.runtime import resolve_precision
from hct_lightning.models import HCT, FromPixels
from hct_lightning.runs import out_of_memory
from hct_lightning.training.step import TrainingStep


class Claim(NamedTuple):
    """What should hold.

    gpus: that it takes to see it.
    check: gives what was seen, or raises.
    """

    gpus: int
    check: Callable[[torch.device, int], str]


def benchmark(*, claims: Sequence[str], resolution: int) -> dict[str, Any]:
    """Checks the claims of these names, or `all`; the ratios count what passed, failed and was not run.

    Args:
        claims: names of `CLAIMS`.
        resolution: of the images, pixels.

    Raises:
        ValueError: for a name that is none of them.
    """
    names = list(CLAIMS) if list(claims) == ["all"] else list(claims)
    for name in names:
        if name not in CLAIMS:
            raise ValueError(f"benchmark.claims={name}: choose from {', '.join(CLAIMS)}, or all")
    device = best_device()
    rows = [row(name, CLAIMS[name], device, resolution) for name in names]
    results = [row["result"] for row in rows]
    return {
        "title": f"What is promised of GPUs, on {describe(device)}",
        "ratios": {name: results.count(result) for name, result in RESULTS.items()},
        "rows": rows,
    }


RESULTS = {"passed": "pass", "failed": "fail", "not_run": "not run"}


def describe(device: torch.device) -> str:
    if device.type != "cuda":
        return device.type
    return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(device)}"


def row(name: str, claim: Claim, device: torch.device, resolution: int) -> dict[str, Any]:
    """Checks a claim, whatever it raises."""
    started = time.perf_counter()
    if torch.cuda.device_count() < claim.gpus:
        result, seen = "not run", f"takes {claim.gpus} CUDA GPU{'s' if claim.gpus > 1 else ''}"
    else:
        try:
            result, seen = "pass", claim.check(device, resolution)
        except Exception as error:  # a check must not keep the next ones from running
            result, seen = "fail", f"{type(error).__name__}: {error}".partition("\n")[0]
    return {"claim": name.replace("_", " "), "result": result, "seen": seen, "s": time.perf_counter() - started}


def network(device: torch.device | str, *, memory: str = "speed") -> FromPixels:
    """HCT with the same weights each time, without dropout."""
    torch.manual_seed(0)
    made = FromPixels(HCT(drop_rate=0.0), IMAGENET_MEAN, IMAGENET_STD)
    if memory == "low":
        made.set_grad_checkpointing()
    return made.to(device).to(memory_format=torch.channels_last)


def batch(device: torch.device | str, resolution: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    images, _ = random_batch(2, resolution)
    return images.to(device), torch.tensor([0, 1], device=device)


def gradients(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Of all parameters in one vector, on the CPU."""
    F.cross_entropy(model(images).float(), labels).backward()
    found = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return torch.cat(found).cpu()


def relative_error(found: Tensor, expected: Tensor, most: float) -> str:
    """Raises AssertionError where it is above `most`."""
    error = float((found - expected).norm() / expected.norm())
    assert error <= most, f"a relative error of {error:.1e}, more than {most:.0e}"
    return f"relative error {error:.1e}"


@contextmanager
def full_fp32() -> Iterator[None]:
    """As `runtime.matmul_precision=highest` has it."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


# --- Claims


def same_gradients_as_the_cpu(device: torch.device, resolution: int) -> str:
    with full_fp32():
        ours = gradients(network(device), *batch(device, resolution))
    return relative_error(ours, gradients(network("cpu"), *batch("cpu", resolution)), 1e-2)


def same_gradients_in_low_memory(device: torch.device, resolution: int) -> str:
    with full_fp32():
        low = gradients(network(device, memory="low"), *batch(device, resolution))
        return relative_error(low, gradients(network(device), *batch(device, resolution)), 1e-3)


def highest_precision_has_no_tf32(device: torch.device, resolution: int) -> str:
    images = torch.rand(1, 64, 64, 64, device=device)
    weight = torch.rand(64, 64, 3, 3, device=device)
    with full_fp32():
        found = F.conv2d(images, weight)
    return relative_error(found.cpu(), F.conv2d(images.double(), weight.double()).float().cpu(), 1e-5)


def mixed_precision_learns(device: torch.device, resolution: int) -> str:
    precision = resolve_precision("auto", device.type)
    images, labels = batch(device, resolution)
    step = TrainingStep(network(device), precision=precision)
    losses = []
    for _ in range(20):
        losses.append(F.cross_entropy(step.forward(images).float(), labels).item())
        step(images, labels)
    assert losses[-1] < 0.5 * losses[0], f"{precision}: the loss went from {losses[0]:.3f} to {losses[-1]:.3f}"
    return f"{precision}: the loss falls from {losses[0]:.3f} to {losses[-1]:.3f}"


def fused_optimizer_steps_alike(device: torch.device, resolution: int) -> str:
    after = []
    for fused in (False, True):
        model = network(device)
        optimizer = torch.optim.AdamW(model.parameters(), fused=fused)
        for _ in range(3):
            TrainingStep(model, optimizer)(*batch(device, resolution))
        after.append(torch.cat([p.detach().flatten() for p in model.parameters()]).cpu())
    return relative_error(after[1], after[0], 1e-2)


def compiled_gives_the_same_logits(device: torch.device, resolution: int) -> str:
    model = network(device).eval()
    images, _ = batch(device, resolution)
    with torch.no_grad(), full_fp32():
        plain = model(images).cpu()
        model.compile(dynamic=False)
        return relative_error(model(images).cpu(), plain, 1e-3)


class NoWaiting(Callback):
    """Lets PyTorch raise where Python would wait for the card, from an epoch's second batch to its last."""

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 1:
            torch.cuda.set_sync_debug_mode("error")

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.is_last_batch:
            torch.cuda.set_sync_debug_mode("default")


def a_step_waits_for_nothing(device: torch.device, resolution: int) -> str:
    common = (
        f"+callbacks.no_waiting._target_={__name__}.NoWaiting",
        "data.augment={quarter_turns: 0.5, jitter: 8, brightness: 0.2, mixup: 0.2}",
        "trainer.max_epochs=2",
        "trainer.log_every_n_steps=1000",  # these two read on purpose, now and then
        "~callbacks.forecast",
    )
    fused = "optim=adamw"  # another optimiser reads once a step in 16-mixed
    for options in ((fused,), (fused, "memory=low", "micro_batches=2"), ("trainer.precision=32-true",)):
        with tempfile.TemporaryDirectory() as home:
            fit(Path(home), *common, *options)
    return "two epochs without a synchronisation in a step, and two with memory=low"


def memory_is_as_predicted(device: torch.device, resolution: int) -> str:
    point = Point("hct", 2 * resolution, 4, resolve_precision("auto", device.type), "speed")
    predicted = point.predicted_bytes(device.type)
    measured = in_a_fresh_process(measured_bytes, point, device.type)
    error = predicted / measured - 1
    assert -0.2 < error < 0.5, f"{predicted / 2**20:.0f} MiB predicted, {measured / 2**20:.0f} MiB measured"
    return f"{predicted / 2**20:.0f} MiB predicted, {measured / 2**20:.0f} MiB measured"


def take_steps_within(point: Point, size: int) -> None:
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(size / total)
    take_steps(point, torch.device("cuda", 0), point.px)


def a_step_fits_the_memory_of_its_plan(device: torch.device, resolution: int) -> str:
    seen = []
    for memory in ("speed", "low"):
        point = Point("hct", 4 * resolution, 4, resolve_precision("auto", device.type), memory)
        planned = point.predicted(device.type).reserved
        in_a_fresh_process(take_steps_within, point, planned)
        seen.append(f"{memory} in {planned / 2**20:.0f} MiB")
    return ", ".join(seen)


def out_of_memory_is_recognised(device: torch.device, resolution: int) -> str:
    try:
        torch.empty(2**50, dtype=torch.uint8, device=device)
    except Exception as error:
        if out_of_memory.shows_in(error):
            return type(error).__name__
        raise
    raise AssertionError("a petabyte was there")


def fit(folder: Path, *options: str) -> dict[str, Any]:
    """A small run; its record."""
    small = ("data.scene_size=256", "data.resolution=256", "data.train=32", "data.valid=8", "data.batch_size=4")
    run(f"hydra.run.dir={folder}", *small, "schedule=constant", "export=[]", *options)
    return json.loads((folder / "run.json").read_text())


def run(*options: str) -> None:
    done = subprocess.run([sys.executable, "-m", "hct_lightning", *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr.strip().rpartition("\n")[2]


def weights(folder: Path) -> dict[str, Tensor]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True, map_location="cpu")["state_dict"]


def a_resumed_run_ends_bitwise_alike(device: torch.device, resolution: int) -> str:
    with tempfile.TemporaryDirectory() as home:
        whole, parts = Path(home) / "whole", Path(home) / "parts"
        fit(whole, "trainer.max_epochs=2")
        fit(parts, "trainer.max_epochs=1")
        run(f"run={parts}", "trainer.max_epochs=2")
        first, second = weights(whole), weights(parts)
    different = [name for name, value in first.items() if not torch.equal(value, second[name])]
    assert not different, f"{len(different)} of {len(first)} tensors differ"
    return f"{len(first)} tensors are equal"


def several_gpus_train(device: torch.device, resolution: int) -> str:
    with tempfile.TemporaryDirectory() as home:
        ranks = min(4, torch.cuda.device_count())
        record = fit(Path(home) / "run", f"trainer.devices={ranks}", "trainer.max_epochs=2")
    return f"{ranks} ranks, {record['epoch_times'][-1]['images_s']:.0f} images/s"


CLAIMS = {
    check.__name__: Claim(gpus, check)
    for gpus, check in (
        (0, out_of_memory_is_recognised),
        (0, same_gradients_in_low_memory),
        (0, mixed_precision_learns),
        (0, fused_optimizer_steps_alike),
        (0, memory_is_as_predicted),
        (0, a_resumed_run_ends_bitwise_alike),
        (1, same_gradients_as_the_cpu),
        (1, highest_precision_has_no_tf32),
        (1, a_step_waits_for_nothing),
        (1, a_step_fits_the_memory_of_its_plan),
        (1, compiled_gives_the_same_logits),
        (2, several_gpus_train),
    )
}
