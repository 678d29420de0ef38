"""Where a run goes on from, and what of a checkpoint is state and what the configuration says anew.

Moments and the number of steps are state. Rates, decay and schedules are options; PyTorch saves them beside the
state and would bring them back, so that an option given on resuming would do nothing.
"""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from hct_lightning.machine import slurm as job
from hct_lightning.runs.folder import Run
from hct_lightning.training.checkpoints import check_resumable

log = logging.getLogger(__name__)


def checkpoint_to_resume(run: Run, ckpt: str | None, *, goes_on: bool) -> Path | None:
    """The checkpoint that a run goes on from; None for a new one.

    It is `last.ckpt`, or another one of the run where `ckpt` says so. Where Slurm has started a run again it is the
    last one, which is then its own.

    Args:
        run: the folder.
        ckpt: the option of this name.
        goes_on: whether the run was named, by `run=`.

    Raises:
        ValueError: when the checkpoint is of another folder.
    """
    folder = run.folder / "checkpoints"
    if not goes_on:
        return folder / "last.ckpt" if job.goes_on() and (folder / "last.ckpt").exists() else None
    chosen = run.checkpoint("last" if job.restarts() else ckpt or "last")
    if chosen.resolve().parent != folder.resolve():
        raise ValueError(
            f"ckpt={ckpt}: a run goes on from a checkpoint of its own, in {folder}; give ckpt=best or last, or "
            "begin a new run from this one's weights: ckpt=<file> without run="
        )
    return folder / chosen.name


def go_on_from(checkpoint: Path, run: Run, *, max_epochs: int, allow: Iterable[str]) -> None:
    """Looks at the checkpoint that a run goes on from, and makes an earlier one its last.

    Args:
        checkpoint: of the run.
        run: the folder.
        max_epochs: the option of this name; not above 0 where it is open.
        allow: see `load_checkpoint`.

    Raises:
        ValueError: when training can't go on from it, or it has had all epochs already.
    """
    saved = check_resumable(checkpoint, allow)
    if 0 < max_epochs <= saved["epoch"]:
        raise ValueError(
            f"trainer.max_epochs={max_epochs}: {checkpoint} is from epoch {saved['epoch'] + 1}; give a larger number, "
            "or go back with ckpt=best"
        )
    log.info("resuming from %s", checkpoint)
    if checkpoint.name != "last.ckpt":
        log.info("back at step %d: metrics.csv and checkpoints of later steps are written anew", saved["global_step"])
        run.go_back(checkpoint)


class StepSchedule(LambdaLR):
    """LambdaLR whose only state is the step: rates and policy are those of the configuration."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if type(step := state_dict["last_epoch"]) is not int or step < 0:
            raise ValueError(f"lr_schedulers[0].last_epoch is {step!r:.100}, not a count")
        super().load_state_dict(state_dict | {"base_lrs": self.base_lrs})
        before = self._last_lr[0]
        self.apply()
        if (now := self._last_lr[0]) != before:
            log.info("the learning rate is %.4g from here on; the checkpoint's was %.4g", now, before)

    def apply(self) -> None:
        """Sets the rates of this step by what the policy says now."""
        rates = [base * policy(self.last_epoch) for base, policy in zip(self.base_lrs, self.lr_lambdas, strict=True)]
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self._last_lr = rates


def keep_options(optimizer: Optimizer) -> None:
    """Lets an optimiser take nothing but its state from a checkpoint, and that only from one of its own class."""
    optimizer.register_state_dict_post_hook(_with_class)
    optimizer.register_load_state_dict_pre_hook(_with_own_options)


def _with_class(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    return state | {"class": type(optimizer).__name__}


def _with_own_options(optimizer: Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
    mine = type(optimizer).__name__
    theirs = saved.get("class", mine)  # not said before this was written: then of the same class
    if theirs != mine:
        log.info("%s begins without moments: the checkpoint's are of %s", mine, theirs)
    own, groups = optimizer.param_groups, saved["param_groups"]
    if [len(group["params"]) for group in own] != [len(group["params"]) for group in groups]:
        raise ValueError("optimizer_states[0].param_groups are those of another network")
    if theirs == mine:
        parameters = [parameter for group in own for parameter in group["params"]]
        _check_moments(
            saved["state"], dict(zip([i for group in groups for i in group["params"]], parameters, strict=True))
        )
    mixed = [{**group, "params": other["params"]} for group, other in zip(own, groups, strict=True)]
    return {"state": saved["state"] if theirs == mine else {}, "param_groups": mixed}


def _check_moments(state: Mapping[Any, Mapping[str, Any]], parameters: Mapping[Any, Tensor]) -> None:
    """Raises ValueError for what an optimiser would stumble over at its first step, or spread over the weights.

    Args:
        state: by parameter, by name; a factor may be of lower rank than its parameter.
        parameters: that it is of.
    """
    # Of matrices and kernels, of kernels with one input channel (depthwise, or of grey images: not Muon's), of the rest.
    names: dict[tuple[bool, bool], Any] = {}
    for i, moments in state.items():
        where = f"optimizer_states[0].state[{i!r:.50}]"
        shape = parameters[i].shape if i in parameters else ()
        kind = len(shape) > 1, len(shape) > 1 and shape[1] > 1
        if i not in parameters or moments.keys() != names.setdefault(kind, moments.keys()):
            raise ValueError(f"{where} holds {', '.join(map(str, moments)):.200}")
        for name, value in moments.items():
            if not isinstance(value, Tensor):
                fits = value is None or isinstance(value, int | float | list)
            else:
                sides = zip(reversed(value.shape), reversed(parameters[i].shape), strict=False)
                fits = value.ndim <= parameters[i].ndim and all(side in (1, full) for side, full in sides)
                fits = fits and bool(value.isfinite().all())
            if not fits:
                said = f"of shape {tuple(value.shape)}, or not finite" if isinstance(value, Tensor) else repr(value)
                raise ValueError(f"{where}.{name} is {said:.100}")
