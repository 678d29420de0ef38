"""Trains, and leaves a run's folder that says everything about it."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import lightning
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig

from hct_lightning.callbacks.epoch_time import EpochTime
from hct_lightning.callbacks.export import ExportAtEnd
from hct_lightning.callbacks.micro_batches import MicroBatches
from hct_lightning.cli.plain import plain
from hct_lightning.data.datamodule import ImageData
from hct_lightning.deploy.export import choose_exporters
from hct_lightning.machine import slurm as job
from hct_lightning.machine.devices import Devices, choose_devices
from hct_lightning.machine.facts import machine_facts
from hct_lightning.machine.ranks import from_rank_zero, is_rank_zero
from hct_lightning.machine.runtime import resolve_precision
from hct_lightning.models import FromPixels
from hct_lightning.report.tables import describe, say_speed_up, show_results
from hct_lightning.report.write import report_at_end
from hct_lightning.runs.folder import Run
from hct_lightning.training.checkpoints import load_weights
from hct_lightning.training.class_weights import class_weights
from hct_lightning.training.memory_plan import MemoryPlan, choose_memory
from hct_lightning.training.module import ImageClassifier
from hct_lightning.training.spec import NetworkSpec
from hct_lightning.training.trainer import build_trainer

log = logging.getLogger(__name__)


def main(cfg: DictConfig, folder: Path) -> None:
    """`task=fit`: a new run in `folder`; the one there goes on with `run=`, or on Slurm again."""
    run = Run(folder, writes=is_rank_zero())
    if job.goes_on() and not cfg.run and run.record.get("status") == "completed":
        log.info("done already: %s", folder)
        return
    with run.recording(task="fit", machine=machine_facts()):
        lightning.seed_everything(cfg.seed, workers=True, verbose=False)
        data: ImageData = instantiate(cfg.data, _convert_="all")
        dataset = data.dataset
        describe(dataset.summary())
        run.update(classes=dataset.classes, data=dataset.summary())

        spec = NetworkSpec(
            model=plain(cfg.model),
            classes=dataset.classes,
            decoding=dataset.decoding,
            mean=dataset.mean,
            std=dataset.std,
        )
        network = spec.build()
        resume = checkpoint_to_resume(cfg, run)
        if cfg.ckpt and not resume:
            load_weights(network, run.checkpoint(cfg.ckpt), cfg.safety.allow)
        earlier = run.record if resume else {}
        devices = devices_of(cfg, data, earlier.get("global_batch"))
        timer = EpochTime()
        callbacks = build_callbacks(cfg, timer, devices.global_batch)
        loggers = build_loggers(cfg, run)

        plan = plan_memory(cfg, data, devices, spec.build, earlier.get("memory_plan"))
        run.update(global_batch=devices.global_batch, memory_plan={"ranks": devices.world, **plan._asdict()})
        if plan.memory == "low":
            network.set_grad_checkpointing()
        data.global_batch, data.micro_batches = devices.global_batch, plan.micro_batches
        module = build_module(cfg, network, spec, data, devices, plan)
        trainer = build_trainer(
            cfg, folder, devices, callbacks=callbacks, loggers=loggers, micro_batches=plan.micro_batches
        )
        introduce(cfg, trainer, module, devices, plan)
        if resume:
            log.info("resuming from %s", resume)
        trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
        run.update(
            metrics=read_metrics(trainer),
            confusion=module.confusion.tolist() if module.confusion is not None else None,
            epoch_times=timer.rows,
        )
    if trainer.is_global_zero:
        report = None
        if cfg.fit.report:
            report = report_at_end([run.folder, *([Path(cfg.fit.against)] if cfg.fit.against else [])])
        show_results(run, trainer, timer.rows, report)
        if cfg.fit.against:
            say_speed_up(timer.rows, cfg.fit.against)


def checkpoint_to_resume(cfg: DictConfig, run: Run) -> Path | None:
    """`last.ckpt`, with `run=` or where Slurm has started this run again; None for a new one.

    Raises:
        ValueError: when another checkpoint of the run is asked for.
    """
    if cfg.run and cfg.ckpt not in (None, "last"):
        raise ValueError(
            f"ckpt={cfg.ckpt}: a run goes on from its last checkpoint; leave ckpt out, or begin a new run from that "
            "one: ckpt=<file> without run="
        )
    begun = job.goes_on() and (run.folder / "checkpoints" / "last.ckpt").exists()
    return run.checkpoint("last") if cfg.run or begun else None


def devices_of(cfg: DictConfig, data: ImageData, global_batch: int | None) -> Devices:
    """What to train on, with the global batch that the run began with, where it did.

    Raises:
        ValueError: when there are too few images for a global batch.
    """
    asked = plain(cfg.trainer)["devices"]
    devices = choose_devices(cfg.trainer.accelerator, asked, cfg.trainer.num_nodes, data.batch_size)
    if devices.note:
        log.info(devices.note)
    if global_batch not in (None, devices.global_batch):
        log.info("this run has a global batch of %d, and keeps it", global_batch)
        devices = devices._replace(global_batch=global_batch)
    if len(data.dataset.catalogue.train) < devices.global_batch:
        raise ValueError(
            f"{len(data.dataset.catalogue.train)} training images are fewer than one global batch of "
            f"{devices.global_batch}; use a smaller data.batch_size or fewer trainer.devices"
        )
    return devices


def build_callbacks(cfg: DictConfig, timer: EpochTime, global_batch: int) -> list[Callback]:
    """Those of `callbacks=`, and what every run needs."""
    callbacks = [
        *instantiate(cfg.callbacks, _convert_="all").values(),
        timer,
        MicroBatches(),
        ExportAtEnd(
            choose_exporters(instantiate(cfg.export, _convert_="all")),
            dynamic=cfg.export.dynamic,
            calibration=cfg.export.calibration,
            evaluation=cfg.export.evaluation,
            allow=tuple(cfg.safety.allow),
        ),
    ]
    if "wandb" in cfg.logger:
        from hct_lightning.callbacks.wandb_run import WandbRun  # W&B takes a second to import

        callbacks.append(WandbRun(plain(cfg) | {"global_batch": global_batch}))
    return callbacks


def build_loggers(cfg: DictConfig, run: Run) -> list[Logger]:
    """Those of `logger=`, beside metrics.csv."""
    builders = {name: partial(instantiate, node, _convert_="all") for name, node in cfg.logger.items()}
    loggers = []
    if "wandb" in builders:
        from hct_lightning.callbacks.wandb_run import connected

        loggers.append(connected(builders.pop("wandb"), run.record.get("id")))
    return loggers + [build() for build in builders.values()]


def plan_memory(
    cfg: DictConfig,
    data: ImageData,
    devices: Devices,
    build: Callable[[], FromPixels],
    earlier: Mapping[str, Any] | None,
) -> MemoryPlan:
    """How every rank takes its share of a global batch; rank 0 decides, for free memory differs.

    Args:
        cfg: the whole configuration.
        data: what is trained on.
        devices: to run on.
        build: gives the network.
        earlier: the plan of the run that is resumed. On as many ranks it holds, whatever memory there is
            now: the weights would not be the same otherwise.
    """
    memory, micro_batches = cfg.memory, cfg.micro_batches
    if earlier and earlier["ranks"] == devices.world:
        memory = earlier["memory"] if memory == "auto" else memory
        micro_batches = earlier["micro_batches"] if micro_batches == "auto" else micro_batches

    def decide() -> dict[str, Any]:
        plan = choose_memory(
            devices.of_rank_zero,
            global_batch=devices.global_batch,
            ranks=devices.world,
            ranks_here=devices.ranks_here,
            memory=memory,
            micro_batches=micro_batches,
            build=build,
            channels=data.dataset.decoding.channels,
            size=data.dataset.size,
            batch_size=data.batch_size,
            precision=resolve_precision(cfg.trainer.precision, devices.accelerator),
        )
        return plan._asdict()

    return MemoryPlan(**from_rank_zero("memory_plan", decide, num_nodes=devices.num_nodes))


def build_module(
    cfg: DictConfig, network: FromPixels, spec: NetworkSpec, data: ImageData, devices: Devices, plan: MemoryPlan
) -> ImageClassifier:
    """The network with loss, optimiser and schedule."""
    counts = Counter(data.dataset.catalogue.train.labels)
    return ImageClassifier(
        network,
        classes=spec.classes,
        optimizer=instantiate(cfg.optim.optimizer, _convert_="all"),
        schedule=instantiate(cfg.schedule, _convert_="all"),
        lr=cfg.optim.lr,
        reference_batch=cfg.optim.reference_batch,
        global_batch=devices.global_batch,
        images_per_backward=devices.global_batch / (devices.world * plan.micro_batches),
        class_weights=class_weights(cfg.loss.class_weights, [counts[i] for i in range(len(spec.classes))]),
        label_smoothing=cfg.loss.label_smoothing,
        spec=spec,
    )


def introduce(
    cfg: DictConfig, trainer: lightning.Trainer, module: ImageClassifier, devices: Devices, plan: MemoryPlan
) -> None:
    """Says what is trained, on what and how."""
    log.info(
        "%s, %.2f M parameters; %s x %d, %s; global batch %d, lr %.3g",
        cfg.model._target_.rpartition(".")[2],
        sum(p.numel() for p in module.network.parameters()) / 1e6,
        trainer.strategy.root_device.type,
        trainer.world_size,
        trainer.precision,
        devices.global_batch,
        module.lr * module.scale,
    )
    if plan.memory == "low":
        log.info("memory=low: the backward pass computes again what is not kept")
    if plan.micro_batches > 1:
        log.info("in %d micro-batches of about %.3g images a rank", plan.micro_batches, module.images_per_backward)


def read_metrics(trainer: lightning.Trainer) -> dict[str, float]:
    """The last values of everything that was logged, and the best validation accuracy."""
    metrics = {name: value.item() for name, value in sorted(trainer.callback_metrics.items())}
    best = getattr(trainer.checkpoint_callback, "best_model_score", None)
    if best is not None:
        metrics["best"] = best.item()
    return metrics
