"""Learning-rate policies: pure functions from the optimiser step to a multiplier.

Every schedule takes the step and, by keyword, `steps_per_epoch`, `total_steps` and `scale`, which
is global batch / reference batch. The multiplier applies to the scaled rate, optim.lr * scale; so
1 / scale stands for the unscaled `optim.lr`. They step as their sources do: the paper's per epoch,
the others per optimiser step.

`total_steps` is infinite where only a time or a callback ends the training: what depends on the end
then does not come, and the rate after the warm-up holds.
"""

import math


def _cosine(progress: float) -> float:
    """1 at progress 0, 0 at progress 1."""
    return 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))


def _epochs(total_steps: float, steps_per_epoch: int) -> float:
    """Whole epochs of the training."""
    return total_steps if total_steps == math.inf else total_steps // steps_per_epoch


def constant(step: int, *, steps_per_epoch: int, total_steps: float, scale: float) -> float:
    """The scaled rate throughout."""
    return 1.0


def cosine(
    step: int,
    *,
    steps_per_epoch: int,
    total_steps: float,
    scale: float,
    warmup_epochs: float = 0.0,
    final: float = 0.0,
) -> float:
    """Linear warm-up from 0 over `warmup_epochs`, then a cosine down to `final`, per step.

    Loshchilov and Hutter, SGDR, ICLR 2017, without restarts.
    """
    warmup = warmup_epochs * steps_per_epoch
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return final + (1 - final) * _cosine((step - warmup) / max(1.0, total_steps - warmup))


def goyal(
    step: int,
    *,
    steps_per_epoch: int,
    total_steps: float,
    scale: float,
    warmup_epochs: float = 5.0,
    milestones: tuple[float, ...] = (1 / 3, 2 / 3, 8 / 9),
    gamma: float = 0.1,
) -> float:
    """Gradual warm-up: from the unscaled to the scaled rate by a constant amount per step.

    Then a tenth at each of `milestones`, fractions of the training. Goyal et al., "Accurate, Large
    Minibatch SGD", 2017, section 2.2: 5 epochs of warm-up; epochs 30, 60 and 80 of 90.
    """
    warmup = warmup_epochs * steps_per_epoch
    if step < warmup:
        return (1 + (scale - 1) * step / warmup) / scale
    return gamma ** sum(step >= fraction * total_steps for fraction in milestones)


def paper_as_written(
    step: int,
    *,
    steps_per_epoch: int,
    total_steps: float,
    scale: float,
    small_epochs: int = 5,
) -> float:
    """The paper's text: small and fixed for 5 epochs, then scaled by the devices, and a cosine.

    Per epoch. "Optimization of Efficient Transformer for High Resolution Images", training policy.
    """
    epoch, epochs = step // steps_per_epoch, _epochs(total_steps, steps_per_epoch)
    if epoch < small_epochs:
        return 1 / scale
    return _cosine((epoch - small_epochs) / max(1, epochs - small_epochs))


def paper_as_run(
    step: int,
    *,
    steps_per_epoch: int,
    total_steps: float,
    scale: float,
    constant_epochs: int = 4,
) -> float:
    """What the paper's logs show: the scaled rate for 4 epochs, then a cosine over the other 75.

    Per epoch; of 80 epochs the last one has a multiplier of 0, as theirs had.
    """
    epoch, epochs = step // steps_per_epoch, _epochs(total_steps, steps_per_epoch)
    return _cosine((epoch - constant_epochs) / max(1, epochs - 1 - constant_epochs))
