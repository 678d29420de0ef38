"""Trains, and leaves a run's folder that says everything about it."""

import inspect
import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig

from hct_lightning.callbacks.arrivals import Arrivals
from hct_lightning.callbacks.epoch_time import EpochTime
from hct_lightning.callbacks.export import ExportAtEnd
from hct_lightning.callbacks.micro_batches import MicroBatches
from hct_lightning.callbacks.own_options import OwnOptions
from hct_lightning.callbacks.restoring import Restoring
from hct_lightning.callbacks.time_budget import TimeBudget
from hct_lightning.cli.changes import options_of_training, say_changes
from hct_lightning.cli.plain import plain
from hct_lightning.cli.recompose import absolute_paths, given_options, since_begun
from hct_lightning.data.datamodule import ImageData
from hct_lightning.data.feeding.transfer import ON_DEVICE
from hct_lightning.data.reading.geometry import NATIVE
from hct_lightning.deploy.export import Exporter, check_open_sizes, choose_exporters
from hct_lightning.machine import runtime
from hct_lightning.machine import slurm as job
from hct_lightning.machine.devices import Devices, choose_devices
from hct_lightning.machine.facts import machine_facts
from hct_lightning.machine.ranks import from_rank_zero, is_rank_zero
from hct_lightning.models import FromPixels
from hct_lightning.report.tables import describe, epoch_times_of, say_speed_up, show_results
from hct_lightning.report.write import report_at_end
from hct_lightning.runs import out_of_memory
from hct_lightning.runs.folder import Run
from hct_lightning.training.checkpoints import begin_network
from hct_lightning.training.class_weights import class_weights
from hct_lightning.training.memory import set_memory, step_memory, tile_workers
from hct_lightning.training.memory_plan import Feeding, MemoryPlan, choose_memory
from hct_lightning.training.module import ImageClassifier
from hct_lightning.training.progress import total_steps
from hct_lightning.training.resuming import checkpoint_to_resume, go_on_from
from hct_lightning.training.size import network_size
from hct_lightning.training.spec import NetworkSpec
from hct_lightning.training.trainer import build_trainer

log = logging.getLogger(__name__)


def main(cfg: DictConfig, folder: Path) -> None:
    """`task=fit`: a new run in `folder`; the one there goes on with `run=`, or on Slurm again."""
    run = Run(folder, writes=is_rank_zero())
    if job.goes_on() and not cfg.run and run.record.get("status") == "completed":
        log.info("done already: %s", folder)
        return
    with run.recording(task="fit", machine=machine_facts(), paths=absolute_paths(cfg)):
        lightning.seed_everything(cfg.seed, workers=True, verbose=False)
        data: ImageData = instantiate(cfg.data, _convert_="all")
        dataset = data.dataset
        describe(dataset.summary())
        against = cfg.fit.against and epoch_times_of(cfg.fit.against, dataset.decoding.size, dataset.decoding.channels)
        resume = checkpoint_to_resume(run, cfg.ckpt, goes_on=bool(cfg.run))
        start = resume or (run.checkpoint(cfg.ckpt) if cfg.ckpt else None)
        spec = NetworkSpec(
            model=plain(cfg.model),
            classes=dataset.classes,
            decoding=dataset.decoding,
            mean=dataset.mean,
            std=dataset.std,
        )
        network, spec = begin_network(
            spec, start, goes_on=resume is not None, given=given_options(cfg, "data"), allow=cfg.safety.allow
        )
        earlier = run.record if resume else {}
        run.update(classes=spec.classes, data=dataset.summary() | {"mean": spec.mean, "std": spec.std})
        devices = devices_of(cfg, data, earlier.get("global_batch"))
        timer, restoring = EpochTime(), Restoring()
        callbacks = [restoring, *build_callbacks(cfg, timer, devices.global_batch)]
        loggers = build_loggers(cfg, run)

        plan = plan_memory(cfg, data, devices, spec.build, earlier.get("memory_plan"))
        run.update(global_batch=devices.global_batch, memory_plan={"ranks": devices.world, **plan._asdict()})
        if cfg.fit.count:
            run.update(network=network_size(spec.build, channels=spec.decoding.channels, size=dataset.size))
        share = -(-devices.global_batch // devices.world)
        out_of_memory.advise(plan.to_take_less(share, dataset.size))
        set_up(network, data, devices, plan, synchronises=cfg.trainer.sync_batchnorm, compiles=cfg.compile)
        data.global_batch, data.micro_batches = devices.global_batch, plan.micro_batches
        module = build_module(cfg, network, spec, data, devices, plan)
        trainer = build_trainer(
            cfg,
            folder,
            devices,
            callbacks=callbacks,
            loggers=loggers,
            micro_batches=plan.micro_batches,
            gradient_bytes=sum(p.nbytes for p in network.parameters()),
        )
        data.total_steps = partial(total_steps, trainer)
        introduce(cfg, trainer, module, devices, plan)
        if resume:
            go_on_from(resume, run, max_epochs=cfg.trainer.max_epochs or 0, allow=cfg.safety.allow)
            say_changes(earlier, options_of_training(cfg), dataset.summary()["images"])
        if cfg.run:
            run.update(since=since_begun(folder))
        run.update(options=options_of_training(cfg))
        with restoring.naming(resume):
            trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
        record_results(run, trainer, module, timer, earlier)
    if trainer.is_global_zero:
        beside = [Path(cfg.fit.against)] if cfg.fit.against else []
        report = report_at_end([run.folder, *beside]) if cfg.fit.report else None
        show_results(run, trainer, timer.rows, report)
        if against and timer.rows:
            say_speed_up(timer.rows, against, cfg.fit.against)


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
        Arrivals(),
        OwnOptions(),
        TimeBudget(),
        ExportAtEnd(
            exporters_of(cfg),
            dynamic=cfg.export.dynamic,
            calibration=cfg.export.calibration,
            evaluation=cfg.export.evaluation,
            license=cfg.export.license,
            allow=tuple(cfg.safety.allow),
        ),
    ]
    if "wandb" in cfg.logger:
        from hct_lightning.callbacks.wandb_run import WandbRun  # W&B takes a second to import

        callbacks.append(WandbRun(plain(cfg) | {"global_batch": global_batch}))
    return callbacks


def exporters_of(cfg: DictConfig) -> dict[str, Exporter]:
    """What is made when fitting ends.

    Raises:
        ValueError: for what can't be made of a network that takes images of all sizes.
    """
    exporters = choose_exporters(instantiate(cfg.export, _convert_="all"))
    if exporters and cfg.memory == "stream":
        log.info("memory=stream: nothing is exported at the end, for that takes whole images; task=export does it")
        return {}
    if cfg.data.resolution == NATIVE:
        check_open_sizes(exporters)
    return exporters


def build_loggers(cfg: DictConfig, run: Run) -> list[Logger]:
    """Those of `logger=`, beside metrics.csv."""
    builders = {name: partial(instantiate, node, _convert_="all") for name, node in cfg.logger.items()}
    loggers = []
    if "wandb" in builders:
        from hct_lightning.callbacks.wandb_start import connected, name_and_group

        mine = name_and_group(run.folder, HydraConfig.get().runtime.choices.get("experiment"))
        asked = {key: value for key, value in mine.items() if cfg.logger.wandb.get(key) is None}
        loggers.append(connected(builders.pop("wandb"), run.record.get("id"), run.folder, **asked))
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
    if cfg.compile:
        if memory in ("low", "stream") or data.dataset.reader.varies:
            other = f"memory={memory}" if memory in ("low", "stream") else "data.resolution=native"
            raise ValueError(
                f"compile=true does not go with {other}: what that recomputes, or sizes that change, can't be compiled; "
                "leave one"
            )
        memory = "speed"
    if earlier and earlier["ranks"] == devices.world:
        memory = earlier["memory"] if memory == "auto" else memory
        micro_batches = earlier["micro_batches"] if micro_batches == "auto" else micro_batches
    if data.dataset.reader.varies:
        micro_batches = alone(devices, micro_batches)
    channels, size = data.dataset.decoding.channels, data.dataset.size
    precision = runtime.resolve_precision(cfg.trainer.precision, devices.accelerator)

    def decide() -> dict[str, Any]:
        plan = choose_memory(
            devices.of_rank_zero,
            global_batch=devices.global_batch,
            ranks=devices.world,
            ranks_here=devices.ranks_here,
            memory=memory,
            micro_batches=micro_batches,
            step=partial(
                step_memory,
                build,
                channels=channels,
                size=size,
                precision=precision,
                workers=tile_workers(devices.accelerator),
            ),
            pixels=math.prod(size),
            channels=channels,
            batch_size=data.batch_size,
            feeding=Feeding(
                on_host=partial(data.batches_ahead, ranks_here=devices.ranks_here),
                on_device=ON_DEVICE - 1,
                augmenting=partial(data.augment.extra_bytes, image_bytes=channels * math.prod(size)),
            ),
        )
        maps_blocks = plan.maps_blocks or bool(earlier and earlier.get("maps_blocks"))
        return plan._replace(maps_blocks=maps_blocks)._asdict()

    return MemoryPlan(**from_rank_zero("memory_plan", decide, num_nodes=devices.num_nodes))


def alone(devices: Devices, micro_batches: int | str) -> int:
    """The number of micro-batches with which every image is alone in its own.

    Raises:
        ValueError: when there is none.
    """
    share, left = divmod(devices.global_batch, devices.world)
    if left:
        raise ValueError(
            f"data.resolution=native takes images one by one, and {devices.world} ranks can't share a global batch of "
            f"{devices.global_batch} evenly; use another number of trainer.devices"
        )
    if micro_batches not in ("auto", share):
        raise ValueError(
            f"micro_batches={micro_batches}: data.resolution=native takes images one by one, here {share}; leave it out"
        )
    return share


def set_up(
    network: FromPixels, data: ImageData, devices: Devices, plan: MemoryPlan, *, synchronises: bool, compiles: bool
) -> None:
    """Makes process, network and data do as planned."""
    if plan.maps_blocks:
        runtime.map_blocks()
    if synchronises:
        network.synchronise_batch_norm()
    set_memory(network, plan.memory, workers=tile_workers(devices.accelerator))
    if plan.memory == "stream":
        data.augment_by_region()
    if compiles:
        network.compile(dynamic=False)


def build_module(
    cfg: DictConfig, network: FromPixels, spec: NetworkSpec, data: ImageData, devices: Devices, plan: MemoryPlan
) -> ImageClassifier:
    """The network with loss, optimiser and schedule."""
    counts = Counter(data.dataset.catalogue.train.labels)
    return ImageClassifier(
        network,
        classes=spec.classes,
        optimizer=build_optimizer(cfg, devices.accelerator),
        schedule=instantiate(cfg.schedule, _convert_="all"),
        lr=cfg.optim.lr,
        reference_batch=cfg.optim.reference_batch,
        global_batch=devices.global_batch,
        images_per_backward=devices.global_batch / (devices.world * plan.micro_batches),
        class_weights=class_weights(cfg.loss.class_weights, [counts[i] for i in range(len(spec.classes))]),
        label_smoothing=cfg.loss.label_smoothing,
        spec=spec,
    )


def build_optimizer(cfg: DictConfig, accelerator: str) -> Callable[..., torch.optim.Optimizer]:
    """That of `optim=`, with one kernel for all parameters where it has one for the device."""
    build = instantiate(cfg.optim.optimizer, _convert_="all")
    open_to_us = "fused" in inspect.signature(build).parameters and "fused" not in build.keywords
    # Lightning refuses to clip gradients in mixed precision for a fused one.
    fused = open_to_us and accelerator == "cuda" and not cfg.trainer.gradient_clip_val
    return partial(build, fused=True) if fused else build


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
    if plan.memory == "stream":
        log.info("memory=stream: the first stages take an image in tiles, twice; their BatchNorm keeps its statistics")
    if plan.maps_blocks:
        log.info("memory is short: what is freed goes back to the system at once, which takes time")
    if plan.micro_batches > 1:
        log.info("in %d micro-batches of about %.3g images a rank", plan.micro_batches, module.images_per_backward)


def record_results(
    run: Run, trainer: lightning.Trainer, module: ImageClassifier, timer: EpochTime, earlier: Mapping[str, Any]
) -> None:
    """Adds to `run.json` what was measured; a run that had nothing left to do keeps what it has.

    Args:
        run: whose record it is.
        trainer: that has trained.
        module: that was trained.
        timer: with the times of its epochs.
        earlier: the record of the run that went on; its earlier epochs stay.
    """
    if not timer.rows and earlier.get("metrics"):
        return
    before = [row for row in earlier.get("epoch_times") or () if timer.rows and row["epoch"] < timer.rows[0]["epoch"]]
    run.update(
        metrics=read_metrics(trainer),
        confusion=module.confusion.tolist() if module.confusion is not None else None,
        epoch_times=before + timer.rows,
    )


def read_metrics(trainer: lightning.Trainer) -> dict[str, float]:
    """The last values of everything that was logged, and the best validation accuracy."""
    metrics = {name: value.item() for name, value in sorted(trainer.callback_metrics.items())}
    best = getattr(trainer.checkpoint_callback, "best_model_score", None)
    if best is not None:
        metrics["best"] = best.item()
    return metrics
