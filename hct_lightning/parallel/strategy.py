"""Training that does not wait for its slowest rank: Lightning's strategy for the schemes of `schemes.py`.

Lightning's loop on each rank makes a step of each *version* of the weights, as under DDP, so counts, schedules,
callbacks and checkpoints are those of DDP. A rank that comes late runs through the steps it has missed without computing.
Where all ranks have something to do together (the end of an epoch, validation, a checkpoint) they *meet*: at such a
version all begin anew, and what was computed before is dropped.
"""

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Timer, WeightAveraging
from lightning.pytorch.overrides.distributed import _sync_module_states
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer import call
from torch import Tensor
from torch.distributed import PrefixStore
from torch.optim import Optimizer

from hct_lightning.parallel.courier import SILENT, Gradient, Line, Mailbox, Remote, Weights
from hct_lightning.parallel.delays import Delays
from hct_lightning.parallel.meetings import meetings
from hct_lightning.parallel.schemes import Scheme
from hct_lightning.parallel.server import Server, Tally, flat, unflat


class FirstArrivals(DDPStrategy):
    """An update is the mean of the first K gradients; the first rank keeps the weights, and computes gradients too.

    Ranks send gradients to it and get weights back over gloo, point to point. All else they exchange as under DDP.

    Args:
        scheme: see `schemes.py`.
        k: gradients in an update; None: one fewer than there are ranks.
        delays: options of `Delays`: a gradient is held back until it has taken so long. None: not.
        seed: of the delays.

    Attributes:
        waited_s: how long this rank has waited for weights.
    """

    def __init__(
        self, scheme: str, *, k: int | None, delays: Mapping[str, Any] | None, seed: int = 0, **options: Any
    ) -> None:
        super().__init__(**options)
        self.scheme_name, self.k = scheme, k
        self.delays = Delays(**delays).check("gradients.delays") if delays else None
        self.seed = seed
        self.waited_s = 0.0
        self.version = 0  # of the weights that this rank has
        self._running = False  # between the start of training and its end
        self._met = True  # all ranks have this version, and go on together
        self._received = 0
        self._notes = self._heard = SILENT
        self._dropped = 0
        self._began = 0.0
        self._loss: Tensor | None = None
        self._server: Server | None = None
        self._remote: Remote | None = None
        self._mailbox: Mailbox
        self._more: Iterator[Any] | None = None

    @property
    def _trainer(self) -> Any:
        assert self.lightning_module is not None
        return self.lightning_module.trainer

    # Where ranks were lost, those that are left have other numbers.
    @property
    def world_size(self) -> int:
        return dist.get_world_size() if dist.is_initialized() else super().world_size

    @property
    def global_rank(self) -> int:
        return dist.get_rank() if dist.is_initialized() else super().global_rank

    def setup_environment(self) -> None:
        ranks = self.num_nodes * self.num_processes
        self._scheme = Scheme(self.scheme_name, max(1, ranks - 1) if self.k is None else self.k)
        try:
            self._scheme.check(ranks)
        except ValueError as error:
            raise ValueError(f"gradients.{error}") from None
        super().setup_environment()

    def configure_ddp(self) -> None:
        """In the place of DDP, which would add up all gradients in the backward pass."""
        assert self.model is not None
        _sync_module_states(self.model)

    def on_train_start(self) -> None:
        """The weights are there, those of a checkpoint too: the first rank keeps them from now on."""
        trainer = self._trainer
        self._refuse(trainer)
        self._parameters = [p for group in self.optimizers[0].param_groups for p in group["params"]]
        self._rank, self.version = self.global_rank, trainer.global_step
        self._rng = np.random.default_rng((self.seed, self._rank, self.version))
        store = dist.distributed_c10d._get_default_store()
        self._store = PrefixStore("gradients", store)
        size = sum(p.numel() for p in self._parameters)
        line = Line(self._store, self._rank, self.world_size, size, self._parameters[0].dtype)
        if self._rank == 0:
            self._server = self._make_server(trainer)
            self._mailbox = self._server.mailbox
            self._server.connect(line)
        else:
            self._mailbox = Mailbox()
            self._remote = Remote(line, self._mailbox)
        trainer.train_dataloader.skips = lambda: self.behind
        self._running = True

    def _refuse(self, trainer: Any) -> None:
        """Raises ValueError for what can't go with ranks that are not at the same step."""
        said = f"gradients={self._scheme.name} does not go with"
        if any(isinstance(callback, Timer) for callback in trainer.callbacks):
            raise ValueError(f"{said} trainer.max_time, for which ranks wait after each step; give trainer.max_epochs")
        if any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks):
            raise ValueError(f"{said} averaged weights: not every rank has those of every step; give callbacks=plain")
        if getattr(self.precision_plugin, "scaler", None) is not None:
            raise ValueError(f"{said} trainer.precision=16-mixed; use bf16-mixed or 32-true")
        if self._scheme.repeats and trainer.accumulate_grad_batches > 1:
            raise ValueError(f"{said} micro_batches: a gradient is of one batch; use a smaller data.batch_size")

    def _make_server(self, trainer: Any) -> Server:
        schedule: Any = self.lr_scheduler_configs[0].scheduler
        rates = [partial(_rate, *policy) for policy in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)]
        bound = trainer.gradient_clip_val
        clip = partial(_clip, bound=bound, by_value=str(trainer.gradient_clip_algorithm or "").endswith("value"))
        return Server(
            self._scheme,
            self.world_size,
            copy.deepcopy(self.optimizers[0]),  # and with it the weights
            rates=lambda version: [rate(version) for rate in rates],
            clip=clip if bound else lambda parameters: None,
            version=trainer.global_step,
            meets=meetings(trainer),
        )

    @property
    def behind(self) -> bool:
        """Whether the step that the loop is at was made without this rank."""
        return self._running and self.version > self._trainer.global_step

    @property
    def together(self) -> bool:
        """Whether all ranks are at the same place, so that they may do something together."""
        return not self._running or (self._met and self.version == self._trainer.global_step)

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        if self.behind:
            return self._loss
        if self._met:  # validation and the like were no part of it
            self._met, self._began = False, time.monotonic()
            if self._server and not self._trainer.fit_loop.epoch_loop.batch_idx:
                self._server.begin_tally()
        loss: Any = super().training_step(*args, **kwargs)
        self._loss = loss.detach()
        return loss

    def backward(self, closure_loss: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.behind or self._mailbox.received > self._received:
            return closure_loss.detach()  # nobody wants this gradient any more
        return super().backward(closure_loss, *args, **kwargs)

    def optimizer_step(self, optimizer: Optimizer, closure: Callable[[], Any], *_: Any, **__: Any) -> Any:
        """A gradient, or in the batch schemes several, until there are newer weights."""
        loss, step = closure(), self._trainer.global_step
        if self.version > step:
            return loss
        self._deliver(optimizer)
        while self.version == step:
            loss = self._another_gradient(optimizer)
            self._deliver(optimizer)
        return loss

    def _another_gradient(self, optimizer: Optimizer) -> Any:
        trainer = self._trainer
        if self._more is None:
            self._more = iter(trainer.datamodule.more_batches())
        batch = self.batch_to_device(next(self._more))
        optimizer.zero_grad()
        loss = call._call_strategy_hook(trainer, "training_step", batch, trainer.fit_loop.epoch_loop.batch_idx)
        call._call_strategy_hook(trainer, "backward", loss, optimizer)
        return loss

    def _deliver(self, optimizer: Optimizer) -> None:
        """Sends this gradient, unless newer weights make it vain, and waits for the weights to go on with."""
        if self.delays:
            delay = self.delays.sample(self._rng, self._rank, 1).item() - (time.monotonic() - self._began)
            if delay > 0:
                self._mailbox.wait(self._received, delay)
        call._call_callback_hooks(self._trainer, "on_before_optimizer_step", optimizer)
        if self._mailbox.wait(self._received, 0):
            self._dropped += 1
            self._send(None)
        else:
            values = flat([_gradient_of(p) for p in self._parameters])
            if not values.isfinite().all():
                raise ValueError(
                    f"the gradient of rank {self._rank} is not finite at step {self.version} (the loss is "
                    f"{self._loss}); use a smaller optim.lr, trainer.gradient_clip_val=1 or "
                    "trainer.precision=32-true; checkpoints/last.ckpt is from before"
                )
            self._send(values)
        start = time.monotonic()
        self._mailbox.wait(self._received)
        self._began = time.monotonic()
        self.waited_s += self._began - start
        self._take()

    def _send(self, values: Tensor | None) -> None:
        gradient = Gradient(self.version, values, self._notes, self._dropped)
        self._notes, self._dropped = SILENT, 0
        (self._server or self._remote).deliver(gradient)  # type: ignore[union-attr]

    def _take(self) -> None:
        """Goes on with the newest weights that have come."""
        weights, self._received = self._mailbox.take()
        if weights.version > self.version:
            assert weights.values is not None
            new = unflat(weights.values.to(self.root_device), self._parameters)
            with torch.no_grad():
                torch._foreach_copy_(self._parameters, new)
        self.version, self._met = weights.version, weights.meets
        if weights.meets:
            self._heard = weights.notes
            self._part_with_the_lost(weights)

    def _part_with_the_lost(self, weights: Weights) -> None:
        """Makes the ranks that live the process group, so that what they do together waits for no other."""
        members = weights.members
        if len(members) == self.world_size:
            return
        # Ranks are numbered among those of the beginning: the gradients' lines stay as they are.
        backend = dist.get_backend()
        dist.destroy_process_group()
        dist.init_process_group(
            backend,
            store=PrefixStore(f"left with {members}", self._store),
            rank=members.index(self._rank),
            world_size=len(members),
            timeout=self._timeout,
        )
        self._trainer.fit_loop.epoch_loop.val_loop._combined_loader = None  # images are divided anew

    def tell(self, notes: tuple[int, ...]) -> None:
        """Notes for all ranks: they go with the next gradient, and all meet to hear them."""
        self._notes = tuple(map(max, self._notes, notes))

    def heard(self) -> tuple[int, ...] | None:
        """The largest of all notes, where the ranks have met to hear them; once."""
        heard = self._heard
        if heard == SILENT or not self.together:
            return None
        self._heard = SILENT
        return heard

    def tally(self) -> Tally | None:
        """What happened since the last one; on the first rank."""
        return self._server.tally() if self._server else None

    def goes_on_without(self, rank: int) -> bool:
        """Whether a rank that has died is missed by nobody. Where ranks are together, all wait for it."""
        return bool(self._server and self._running and not self.together and self._server.survives(rank, 2.0))

    def barrier(self, *args: Any, **kwargs: Any) -> None:
        if self.together:
            super().barrier(*args, **kwargs)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Options and class of Lightning's optimiser, moments of the server's."""
        state = super().optimizer_state(optimizer)
        return state | {"state": self._server.optimizer.state_dict()["state"]} if self._server else state

    def on_train_end(self) -> None:
        self._running = False
        if side := self._server or self._remote:
            side.close()
            side.wait()

    def on_exception(self, exception: BaseException) -> None:
        if self._server:  # that the others end now is no news
            self._server.close()
        super().on_exception(exception)


def _gradient_of(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _rate(base: float, policy: Callable[[int], float], version: int) -> float:
    return base * policy(version)


def _clip(parameters: list[Tensor], *, bound: float, by_value: bool) -> None:
    if by_value:
        torch.nn.utils.clip_grad_value_(parameters, bound)
    else:
        torch.nn.utils.clip_grad_norm_(parameters, bound)
