"""Muon: momentum whose matrices are made orthogonal, for kernels and matrices; AdamW for everything else.

Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; step sizes as AdamW's from Liu et al. 2025, arXiv
2502.16982. All directions of a layer's weights learn equally fast, where gradients have a few strong ones.

Newton and Schulz's iteration goes X -> (a + b A + c A A) X with A = X X'. Here it runs on A alone, which is square and
for HCT a ninth as wide as X, and X is multiplied once in the end. That takes fp32, for rounding makes eigenvalues of A
negative, and these grow.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor

# a, b and c of each iteration, from https://leloykun.github.io/ponder/muon-opt-coeffs: the same for all leave singular
# values between 0.7 and 1.2.
COEFFICIENTS = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)
RMS = 0.2  # of an update of AdamW, about


class Muon(torch.optim.Optimizer):
    """Muon for parameters of two dimensions and more, AdamW for vectors and the kernels of depthwise convolutions.

    Rates and weight decay are those that suit AdamW. A kernel counts as a matrix of out x (in height width).

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        weight_decay: of the weights themselves, times `lr`.
        momentum: of gradients that are made orthogonal.
        betas: of AdamW.
        eps: of AdamW.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 2e-3,
        weight_decay: float = 0.05,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
    ) -> None:
        for name, value in (("lr", lr), ("weight_decay", weight_decay), ("eps", eps)):
            if value < 0:
                raise ValueError(f"optim.optimizer.{name}={value}: give at least 0")
        for name, value in (("momentum", momentum), ("betas", max(betas)), ("betas", min(betas))):
            if not 0 <= value < 1:
                raise ValueError(f"optim.optimizer.{name}={value}: give 0 to less than 1")
        options = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "betas": tuple(betas), "eps": eps}
        super().__init__(params, options)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        precision = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            for group in self.param_groups:
                used = [parameter for parameter in group["params"] if parameter.grad is not None]
                self._orthogonal([parameter for parameter in used if is_matrix(parameter)], group)
                self._adamw([parameter for parameter in used if not is_matrix(parameter)], group)
        finally:
            torch.set_float32_matmul_precision(precision)
        return loss

    def _orthogonal(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        same_shape: dict[torch.Size, list[Tensor]] = {}
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
            same_shape.setdefault(parameter.shape, []).append(parameter)
        for shape, alike in same_shape.items():
            momenta = torch.stack([self.state[parameter]["momentum"].flatten(1) for parameter in alike])
            size = RMS * math.sqrt(max(momenta.shape[1:]))  # of an orthogonal matrix the RMS is one over the root
            for parameter, update in zip(alike, orthogonal(momenta).unflatten(2, shape[1:]), strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-group["lr"] * size)

    def _adamw(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        first, second = group["betas"]
        for parameter in parameters:
            state, gradient = self.state[parameter], cast(Tensor, parameter.grad)
            if not state:
                state.update(step=0, mean=torch.zeros_like(parameter), square=torch.zeros_like(parameter))
            state["step"] += 1
            state["mean"].lerp_(gradient, 1 - first)
            state["square"].lerp_(gradient.square(), 1 - second)
            spread = (state["square"] / (1 - second ** state["step"])).sqrt_().add_(group["eps"])
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.addcdiv_(state["mean"], spread, value=-group["lr"] / (1 - first ** state["step"]))


def is_matrix(parameter: Tensor) -> bool:
    """Whether Muon takes it. A depthwise kernel has a row for each channel, which have nothing to do with each other."""
    return parameter.ndim > 1 and parameter.shape[1] > 1


def orthogonal(matrices: Tensor) -> Tensor:
    """n rows columns -> the same, with singular values near 1; those below a thousandth of the norm stay smaller."""
    x = matrices.float()
    wide = x.shape[1] <= x.shape[2]
    x = x if wide else x.mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    gram = x @ x.mT
    first, *others = COEFFICIENTS
    whole = change = _change(gram, *first)
    for coefficients in others:
        gram = change @ gram @ change
        change = _change(gram, *coefficients)
        whole = change @ whole
    x = whole @ x
    return (x if wide else x.mT).to(matrices.dtype)


def _change(gram: Tensor, a: float, b: float, c: float) -> Tensor:
    """What an iteration multiplies by, of A = `gram`: a + b A + c A A."""
    return a * torch.eye(gram.shape[1], device=gram.device) + b * gram + c * gram @ gram
