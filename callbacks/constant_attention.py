"""What attention brings: how much its output varies, and what a network answers with a constant in its place.

Legend: b images, n positions, c channels.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from hct_lightning.models import FromPixels, PerformerAttention


class Spread(NamedTuple):
    """Of what an attention gives over images, each of which weighs the same; channels are summed.

    constant: the mean over images and positions, c.
    between_images: variance of the images' means.
    between_positions: variance between the positions of an image, the mean over the images.
    """

    constant: Tensor
    between_images: float
    between_positions: float

    @classmethod
    def of(cls, means: Tensor, variances: Tensor) -> "Spread":
        """Args: of each image mean and variance over its positions, images c."""
        between = means.var(dim=0, correction=0).sum().item()
        return cls(means.mean(dim=0), between, variances.mean(dim=0).sum().item())

    @property
    def share_between_images(self) -> float | None:
        """Of the variance over all images and positions; None where there is none."""
        total = self.between_images + self.between_positions
        return self.between_images / total if total else None


class ConstantAttention(Callback):
    """Measures in the first validation what each attention gives; in later ones each gives its mean instead.

    Padding and images that could not be read are left out, and all ranks measure the same.

    Args:
        network: through which images go whole.

    Attributes:
        spread: by the attentions' names, after the first validation.

    Raises:
        ValueError: when the network has no `PerformerAttention`.
    """

    def __init__(self, network: FromPixels) -> None:
        self.spread: dict[str, Spread] = {}
        self._index: list[Tensor] = []
        self._seen: dict[str, list[Sequence[Tensor]]] = {}
        for name, module in network.network.named_modules():
            if isinstance(module, PerformerAttention):
                self._seen[name] = []
                module.register_forward_hook(partial(self._gives, name))
        if not self._seen:
            raise ValueError(
                f"validate.constant_attention=true: {type(network.network).__name__} as it was trained has no linear "
                "attention; leave the option out, or give a run of HCT with model.conv_stages of 2 to 4"
            )

    def _gives(self, name: str, module: Any, inputs: Any, output: Tensor) -> Tensor | None:
        """The hook: `output` is b n c; what is returned replaces it."""
        if self.spread:
            return self.spread[name].constant.to(output).expand_as(output)
        variances, means = torch.var_mean(output.float(), dim=1, correction=0)
        self._seen[name].append((means.cpu().double(), variances.cpu().double()))
        return None

    def on_validation_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        if not self.spread:
            self._index.append(batch.index.cpu())

    def on_validation_epoch_end(self, trainer: Any, module: Any) -> None:
        if self.spread:
            return
        index = torch.cat(self._index)
        mine = {name: [torch.cat(parts) for parts in zip(*seen, strict=True)] for name, seen in self._seen.items()}
        everyone: list[Any] = [(index, mine)]
        if trainer.world_size > 1:
            everyone = [None] * trainer.world_size
            dist.all_gather_object(everyone, (index, mine))
        index = torch.cat([index for index, _ in everyone])
        order = index.argsort()[(index < 0).sum() :]  # as images come, for any number of ranks; negative: not counted
        for name in self._seen:
            self.spread[name] = Spread.of(*(torch.cat([seen[name][i] for _, seen in everyone])[order] for i in (0, 1)))
