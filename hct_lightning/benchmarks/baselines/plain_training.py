"""The baseline of training: a step of HCT written plainly, with torch alone.

Contiguous tensors, fp32, pixels made float and normalised, torch's default allocator.
"""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from hct_lightning.benchmarks.baselines.plain_hct import PlainHCT
from hct_lightning.benchmarks.harness.kept import kept_mib
from hct_lightning.benchmarks.harness.side import serve
from hct_lightning.machine.high_water import peak_gib
from hct_lightning.machine.runtime import resolve_precision


class Step(NamedTuple):
    """A model with its optimiser, and the batch that it sees again and again."""

    model: PlainHCT
    optimizer: torch.optim.Optimizer
    images: Tensor
    labels: Tensor
    mean: Tensor
    std: Tensor
    dtype: torch.dtype | None

    @classmethod
    def build(cls, resolution: int, batch_size: int, *, tuned: bool = False) -> "Step":
        """`tuned` is the best that settings alone make of it: channels_last, under autocast where that is faster."""
        torch.manual_seed(0)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = PlainHCT().to(device)
        images = torch.randint(0, 256, (batch_size, 3, resolution, resolution), dtype=torch.uint8)
        if tuned:
            model.to(memory_format=torch.channels_last)
            images = images.contiguous(memory_format=torch.channels_last)
        return cls(
            model,
            torch.optim.Adam(model.parameters(), lr=1e-3),
            images.pin_memory() if device == "cuda" else images,
            torch.zeros(batch_size, dtype=torch.long, device=device),
            torch.tensor([0.485, 0.456, 0.406], device=device).view(1, 3, 1, 1),
            torch.tensor([0.229, 0.224, 0.225], device=device).view(1, 3, 1, 1),
            half_precision(device) if tuned else None,
        )

    def forward(self) -> Tensor:
        x = (self.images.to(self.mean.device, non_blocking=True).float() / 255 - self.mean) / self.std
        with torch.autocast(x.device.type, self.dtype, enabled=self.dtype is not None):
            return self.model(x)

    def __call__(self) -> None:
        loss = torch.nn.functional.cross_entropy(self.forward().float(), self.labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()


def half_precision(device: str) -> torch.dtype | None:
    """bf16, fp16 on a card that only emulates bf16, and None on such a CPU, where it is slower than fp32."""
    return {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(resolve_precision("auto", device))


def peak_memory_gib(device: str) -> float:
    """Of tensors on a GPU, else of the process."""
    return torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else peak_gib()


def training(resolution: int, batch_size: int, tuned: bool) -> None:
    """The side of `benchmark=step`."""
    step = Step.build(resolution, batch_size, tuned=tuned)
    computed = f"{step.dtype} autocast".removeprefix("torch.") if step.dtype else "fp32"
    precision = f"{computed}, {'channels_last' if tuned else 'contiguous'}"
    device = step.mean.device.type
    peak = partial(peak_memory_gib, device)
    serve(step, peak=peak, device=device, precision=precision, threads=torch.get_num_threads())


def keeping(resolution: int, batch_size: int) -> None:
    """The side of `benchmark=memory`, which also tells what a forward pass keeps."""
    step = Step.build(resolution, batch_size)
    peak = partial(peak_memory_gib, step.mean.device.type)
    serve(step, peak=peak, kept_mib=kept_mib(step.model, step.forward), precision="32-true")
