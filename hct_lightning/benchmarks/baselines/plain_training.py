"""The baseline of training: a step of HCT written plainly, with torch alone.

Contiguous tensors, fp32, pixels made float and normalised, torch's default allocator.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from hct_lightning.benchmarks.baselines.plain_hct import PlainHCT
from hct_lightning.benchmarks.harness.kept import kept_mib
from hct_lightning.benchmarks.harness.side import serve


class Step(NamedTuple):
    """A model with its optimiser, and the batch that it sees again and again."""

    model: PlainHCT
    optimizer: torch.optim.Optimizer
    images: Tensor
    labels: Tensor
    mean: Tensor
    std: Tensor
    bf16: bool

    @classmethod
    def build(cls, resolution: int, batch_size: int, *, tuned: bool = False) -> "Step":
        """`tuned` is the best that settings alone make of it: channels_last under bf16 autocast."""
        torch.manual_seed(0)
        model = PlainHCT()
        images = torch.randint(0, 256, (batch_size, 3, resolution, resolution), dtype=torch.uint8)
        if tuned:
            model.to(memory_format=torch.channels_last)
            images = images.contiguous(memory_format=torch.channels_last)
        return cls(
            model,
            torch.optim.Adam(model.parameters(), lr=1e-3),
            images,
            torch.zeros(batch_size, dtype=torch.long),
            torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1),
            torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1),
            tuned,
        )

    def forward(self) -> Tensor:
        x = (self.images.float() / 255 - self.mean) / self.std
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            return self.model(x)

    def __call__(self) -> None:
        loss = torch.nn.functional.cross_entropy(self.forward().float(), self.labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def training(resolution: int, batch_size: int, tuned: bool) -> None:
    """The side of `benchmark=step`."""
    step = Step.build(resolution, batch_size, tuned=tuned)
    precision = "bf16 autocast, channels_last" if tuned else "fp32, contiguous"
    serve(step, precision=precision, threads=torch.get_num_threads())


def keeping(resolution: int, batch_size: int) -> None:
    """The side of `benchmark=memory`, which also tells what a forward pass keeps."""
    step = Step.build(resolution, batch_size)
    serve(step, kept_mib=kept_mib(step.model, step.forward), precision="32-true")
