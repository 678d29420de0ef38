"""DDP that sends less: compressed gradients, or none for a while. On the CPU too, where Lightning leaves hooks out silently."""

from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import DDPStrategy
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook, fp16_compress_hook
from torch.distributed.algorithms.ddp_comm_hooks.post_localSGD_hook import PostLocalSGDState, post_localSGD_hook
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

from hct_lightning.parallel.server import unflat


class HookedDDP(DDPStrategy):
    """DDP with a communication hook, on whatever device."""

    def _register_ddp_hooks(self) -> None:
        assert isinstance(self.model, DistributedDataParallel)
        assert self._ddp_comm_hook
        self.model.register_comm_hook(self._ddp_comm_state, self._ddp_comm_hook)

    def on_train_start(self) -> None:
        state: Any = self._ddp_comm_state
        if state:  # it counts the steps, and would begin at 0 in a resumed run
            state.iter = self._trainer.global_step

    @property
    def _trainer(self) -> Any:
        assert self.lightning_module is not None
        return self.lightning_module.trainer


class LocalSGD(HookedDDP):
    """Plain DDP, then steps of each rank alone, with the weights averaged now and then.

    They are also averaged before all ranks validate or save them; averages over the steps would be each rank's own.
    Lightning's and PyTorch's own averaging does not do that, and lays out the parameters in memory anew.

    Args:
        period: steps from one average to the next.
        after_steps: steps of plain DDP before.
        options: of DDP.
    """

    def __init__(self, *, period: int, after_steps: int, **options: Any) -> None:
        state = PostLocalSGDState(None, None, after_steps, post_local_gradient_allreduce=False)
        super().__init__(ddp_comm_state=state, ddp_comm_hook=post_localSGD_hook, **options)
        self.period, self.after_steps = period, after_steps

    def _enable_model_averaging(self) -> None:
        pass

    def on_train_start(self) -> None:
        if any(isinstance(callback, WeightAveraging) for callback in self._trainer.callbacks):
            raise ValueError(
                "gradients=post_local_sgd does not go with averaged weights, of which each rank would have its own; give "
                "callbacks=plain"
            )
        super().on_train_start()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> Any:
        output = super().optimizer_step(*args, **kwargs)
        alone = self._trainer.global_step + 1 - self.after_steps
        if alone > 0 and alone % self.period == 0:
            self._average()
        return output

    def on_validation_start(self) -> None:
        if self._trainer.global_step > self.after_steps:
            self._average()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        if self._trainer.training and self._trainer.global_step > self.after_steps:
            self._average()
        return super().lightning_module_state_dict()

    def _average(self) -> None:
        assert self.lightning_module is not None
        with torch.no_grad():
            parameters: list[torch.Tensor] = list(self.lightning_module.parameters())
            mean = torch.cat([p.reshape(-1) for p in parameters])
            dist.all_reduce(mean)
            torch._foreach_copy_(parameters, unflat(mean / dist.get_world_size(), parameters))


def fp16(**options: Any) -> DDPStrategy:
    """Gradients travel in fp16: half the bytes."""
    return HookedDDP(ddp_comm_hook=fp16_compress_hook, **options)


def bf16(**options: Any) -> DDPStrategy:
    """Gradients travel in bf16: half the bytes, and no overflow."""
    return HookedDDP(ddp_comm_hook=bf16_compress_hook, **options)


def powersgd(*, rank: int, after_steps: int, **options: Any) -> DDPStrategy:
    """Gradients of matrices travel as two thin factors; what is lost is added to the next step's.

    Vogels et al., "PowerSGD", NeurIPS 2019. What was lost is not in checkpoints: a resumed run begins without it.

    Args:
        rank: columns of the factors.
        after_steps: steps of plain DDP before; at least 2.
        options: of DDP.

    Raises:
        ValueError: for a value out of range.
    """
    if rank < 1:
        raise ValueError(f"gradients.rank={rank}: give at least 1")
    if after_steps < 2:
        raise ValueError(f"gradients.after_steps={after_steps}: give at least 2")
    state = PowerSGDState(None, matrix_approximation_rank=rank, start_powerSGD_iter=after_steps)
    return HookedDDP(ddp_comm_state=state, ddp_comm_hook=_powersgd, **options)


def _powersgd(state: PowerSGDState, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """PowerSGD, on gloo a bucket at a time.

    Each bucket takes three collectives in a row, begun by callbacks. Under gloo these run in threads, so those of
    several buckets would be in another order on each rank, which ends the run or mixes them up.
    """
    gradients = powerSGD_hook(state, bucket)
    if dist.get_backend() != "gloo":
        return gradients
    done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    done.set_result(gradients.wait())
    return done


def post_local_sgd(*, period: int, after_steps: int, **options: Any) -> DDPStrategy:
    """Plain DDP, then steps of each rank alone, with the weights averaged every `period` of them.

    Lin et al., "Don't Use Large Mini-Batches, Use Local SGD", ICLR 2020. Moments of the optimiser are each rank's own,
    and those of the first are saved.

    Args:
        period: steps from one average to the next.
        after_steps: steps of plain DDP before.
        options: of DDP.

    Raises:
        ValueError: for a value out of range.
    """
    if period < 1:
        raise ValueError(f"gradients.period={period}: give at least 1")
    if after_steps < 0:
        raise ValueError(f"gradients.after_steps={after_steps}: give 0 or more")
    return LocalSGD(period=period, after_steps=after_steps, **options)
