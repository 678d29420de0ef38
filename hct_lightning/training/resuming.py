"""What of a checkpoint is state, and what the configuration says anew, when a run goes on.

Moments and the number of steps are state. Rates, decay and schedules are options; PyTorch saves them beside the
state and would bring them back, so that an option given on resuming would do nothing.
"""

import logging
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

log = logging.getLogger(__name__)


class StepSchedule(LambdaLR):
    """LambdaLR whose only state is the step: rates and policy are those of the configuration."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict | {"base_lrs": self.base_lrs})
        before = self._last_lr[0]
        rates = [base * policy(self.last_epoch) for base, policy in zip(self.base_lrs, self.lr_lambdas, strict=True)]
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self._last_lr = rates
        if rates[0] != before:
            log.info("the learning rate is %.4g from here on; the checkpoint's was %.4g", rates[0], before)


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
    groups = [
        {**own, "params": group["params"]}
        for own, group in zip(optimizer.param_groups, saved["param_groups"], strict=True)
    ]
    return {"state": saved["state"] if theirs == mine else {}, "param_groups": groups}
