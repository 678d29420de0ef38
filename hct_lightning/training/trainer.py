"""The trainer of a run, from the options of its configuration."""

import logging
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback, EarlyStopping, WeightAveraging
from lightning.pytorch.strategies import DDPStrategy

from hct_lightning.machine.devices import Devices
from hct_lightning.machine.runtime import resolve_precision
from hct_lightning.training.metrics_csv import MetricsCSV

log = logging.getLogger(__name__)

# Lightning's advice on what is deliberate here.
_EXPECTED = (
    ".*does not have many workers.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*srun. command is available.*",
    ".*number of training batches .* is smaller than the logging interval.*",
    ".*LeafSpec.*",
    ".*sync_dist=True.*",  # what is logged is the same on every rank, or meant to be rank 0's
    ".*broadcast_buffers. is deprecated.*",  # its new name is not known to every torch that will do
    ".*lr_scheduler.step.* before .optimizer.step.*",  # 16-mixed leaves out first steps whose scaled gradients overflow
    "No (positive|negative) samples in targets.*",  # a class that validation lacks is noted at the start
)


def build_trainer(
    options: Mapping[str, Any],
    folder: Path,
    devices: Devices,
    *,
    callbacks: list[Callback],
    loggers: list[Any] | None = None,
    gradients: Mapping[str, Any] | None = None,
    micro_batches: int = 1,
    gradient_bytes: int = 0,
) -> lightning.Trainer:
    """Lightning's Trainer with the group `trainer`, `auto` settings resolved, everything in `folder`.

    Args:
        options: of that group.
        folder: of the run.
        devices: to run on.
        callbacks: of this task.
        loggers: beside metrics.csv; None logs nothing at all.
        gradients: the group of this name, with the strategy of several ranks that train; None: DDP.
        micro_batches: of a rank's share of a global batch.
        gradient_bytes: of the network, which several ranks send one another; 0 where nothing is trained.

    Raises:
        ValueError: for options that can't be, or that mean something else here.
    """
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)  # our own lines say what matters
        logging.getLogger(name).handlers.clear()
    for message in _EXPECTED:
        warnings.filterwarnings("ignore", message)
    _check_options(options, devices, trains=gradient_bytes > 0)
    if options["limit_val_batches"] == 0 and gradient_bytes:
        _say_that_nothing_is_validated(callbacks)
    # Lightning counts micro-batches here; a user means steps, whatever the memory divides them into.
    batches = {
        name: _in_micro_batches(name, options[name], micro_batches)
        for name in ("limit_train_batches", "val_check_interval")
    }
    strategy = options["strategy"]
    chosen = gradients if gradient_bytes else None
    if strategy == "auto" and devices.world > 1:
        of_ddp = ddp_options(devices.accelerator, gradient_bytes)
        strategy = instantiate(chosen, **of_ddp, _convert_="all") if chosen else DDPStrategy(**of_ddp)
    elif chosen:
        log.info("gradients=... does nothing here: it is for several ranks, and trainer.strategy=auto")
    return instantiate(
        options,
        strategy=strategy,
        accelerator=devices.accelerator,
        devices=devices.devices,
        num_nodes=devices.num_nodes,
        sync_batchnorm=False,  # the task has converted the network
        precision=resolve_precision(options["precision"], devices.accelerator),
        accumulate_grad_batches=micro_batches,  # the data module divides global batches into so many
        **batches,
        callbacks=callbacks,
        logger=False if loggers is None else [MetricsCSV(folder), *loggers],
        default_root_dir=str(folder),
        enable_model_summary=False,
        _convert_="all",
    )


def _check_options(options: Mapping[str, Any], devices: Devices, *, trains: bool) -> None:
    if (given := options["accumulate_grad_batches"]) != 1:
        raise ValueError(
            f"trainer.accumulate_grad_batches={given}: a step has data.batch_size images for each device; "
            "give a larger data.batch_size for more, or micro_batches to divide them"
        )
    if options["use_distributed_sampler"]:
        raise ValueError(
            "trainer.use_distributed_sampler=true: the data module divides the images among the ranks itself, and "
            "counts each once; leave it out"
        )
    if options["sync_batchnorm"] and devices.accelerator == "cpu":
        raise ValueError(
            "trainer.sync_batchnorm=true needs GPUs: PyTorch's SyncBatchNorm does not run on the CPU; "
            "set it to false (each rank then normalises by its own micro-batch)"
        )
    if options["limit_train_batches"] == 0:
        raise ValueError("trainer.limit_train_batches=0 trains nothing; give 1 or more, or task=validate")
    time = options["max_time"]
    if not (time is None or isinstance(time, Mapping) or re.fullmatch(r"\d+:\d\d:\d\d:\d\d", str(time).strip())):
        raise ValueError(f'trainer.max_time={time}: give DD:HH:MM:SS, as "00:00:10:00" for ten minutes')
    if not trains:
        return
    for name in ("max_epochs", "max_steps"):
        if options[name] == 0:
            raise ValueError(f"trainer.{name}=0 trains nothing; give 1 or more, or task=validate")
    if options["limit_val_batches"] != 0 and not options["fast_dev_run"]:
        check_that_all_is_validated(options["limit_val_batches"])


def check_that_all_is_validated(limit: float | None) -> None:
    """Raises ValueError for a `trainer.limit_val_batches` that leaves images out: the split is sorted by class."""
    if limit is None or (isinstance(limit, float) and limit == 1):
        return
    if limit == 0:
        raise ValueError("trainer.limit_val_batches=0 validates nothing; give trainer.limit_val_batches=null")
    raise ValueError(
        f"trainer.limit_val_batches={limit} would validate the first classes alone; give "
        "trainer.limit_val_batches=null, and data.limit_valid=<images> for fewer of each class"
    )


def _say_that_nothing_is_validated(callbacks: list[Callback]) -> None:
    for callback in callbacks:
        if isinstance(callback, EarlyStopping) and str(callback.monitor).startswith("val/"):
            raise ValueError(
                f"trainer.limit_val_batches=0: {type(callback).__name__} waits for {callback.monitor}, which is then never "
                "measured; leave one of them out"
            )
    averaged = any(isinstance(callback, WeightAveraging) for callback in callbacks)
    log.warning(
        "trainer.limit_val_batches=0: nothing is validated, so there will be no checkpoint best, and no artifact but by "
        "task=export ckpt=last%s",
        # They are measured before each validation, for there the averages count.
        "; averaged weights have no BatchNorm statistics of their own then: give callbacks=plain" if averaged else "",
    )
    warnings.filterwarnings("ignore", r".*could not find the monitored key in the returned metrics.*")


def _in_micro_batches(name: str, value: float | None, micro_batches: int) -> int | float | None:
    """An option that counts steps; a fraction, which could end within one, stands only where a step is one micro-batch."""
    if isinstance(value, float) and value < 1 and micro_batches > 1:
        raise ValueError(
            f"trainer.{name}={value} could end within a step, which has {micro_batches} micro-batches here; give a whole "
            "number of steps"
        )
    return value * micro_batches if isinstance(value, int) else value


def ddp_options(accelerator: str, gradient_bytes: int) -> dict[str, Any]:
    """Of DDP, as the network's size wants it.

    On GPUs gradients travel while others are computed. Those of the first layers come last, and nothing is computed
    while they travel: so their bucket should be small, and PyTorch's 25 MB hold all of HCT's 7.
    """
    bucket_mb = min(25.0, max(1.0, gradient_bytes / 8 / 2**20)) if accelerator == "cuda" else 25.0
    return {
        # Without it DDP lays out its buckets anew after the first step of a process (with static_graph too). In the
        # first step of a resumed run more than two ranks' gradients would add up in another order.
        "find_unused_parameters": True,
        "gradient_as_bucket_view": True,  # else gradients are in memory twice
        "bucket_cap_mb": bucket_mb,
        # Rank 0's BatchNorm figures are given to all for validation: to do so before each forward would be to wait.
        "broadcast_buffers": False,
    }
