"""Trains, and leaves a run's folder that says everything about it."""

import inspect
import logging
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

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
from hct_lightning.callbacks.results import Results
from hct_lightning.callbacks.time_budget import TimeBudget
from hct_lightning.callbacks.unfinished_epoch import UnfinishedEpoch
from hct_lightning.cli.changes import options_of_training, say_changes
from hct_lightning.cli.plain import plain
from hct_lightning.cli.recompose import absolute_paths, given_options, since_begun
from hct_lightning.data.datamodule import ImageData
from hct_lightning.data.reading.geometry import NATIVE
from hct_lightning.deploy.export import Exporter, check_open_sizes, choose_exporters
from hct_lightning.machine import slurm as job
from hct_lightning.machine.devices import Devices
from hct_lightning.machine.facts import machine_facts
from hct_lightning.machine.ranks import is_rank_zero
from hct_lightning.models import FromPixels
from hct_lightning.report.tables import describe, epoch_times_of, say_speed_up, show_results
from hct_lightning.report.write import report_at_end
from hct_lightning.runs import out_of_memory
from hct_lightning.runs.folder import Run
from hct_lightning.training.checkpoints import begin_network
from hct_lightning.training.class_weights import class_weights
from hct_lightning.training.learner import Learner
from hct_lightning.training.memory_plan import MemoryPlan
from hct_lightning.training.module import ImageClassifier
from hct_lightning.training.pretraining import SMALLEST, MaskedImages
from hct_lightning.training.progress import total_steps
from hct_lightning.training.resources import devices_of, plan_memory, set_up
from hct_lightning.training.resuming import checkpoint_to_resume, go_on_from
from hct_lightning.training.size import network_size
from hct_lightning.training.spec import NetworkSpec
from hct_lightning.training.trainer import build_trainer

log = logging.getLogger(__name__)


def main(cfg: DictConfig, folder: Path) -> None:
    """`task=fit` and `task=pretrain`: a new run in `folder`; the one there goes on with `run=`, or on Slurm again."""
    run = Run(folder, writes=is_rank_zero())
    if job.goes_on() and not cfg.run and run.record.get("status") == "completed":
        log.info("done already: %s", folder)
        return
    with run.alone(), run.recording(task=verb_of(cfg, run), machine=machine_facts(), paths=absolute_paths(cfg)):
        lightning.seed_everything(cfg.seed, workers=True, verbose=False)
        data: ImageData = instantiate(cfg.data, _convert_="all")
        dataset = data.dataset
        check_task(cfg, data)
        describe(dataset.summary())
        against = cfg.fit.against and epoch_times_of(cfg.fit.against, dataset.decoding.size, dataset.decoding.channels)
        resume = checkpoint_to_resume(run, cfg.ckpt, goes_on=bool(cfg.run))
        start = resume or (run.checkpoint(cfg.ckpt) if cfg.ckpt else None)
        spec = NetworkSpec(
            model=plain(cfg.model),
            classes=() if cfg.pretrain else dataset.classes,
            decoding=dataset.decoding,
            mean=dataset.mean,
            std=dataset.std,
        )
        network, spec = begin_network(
            spec, start, goes_on=resume is not None, given=given_options(cfg, "data"), allow=cfg.safety.allow
        )
        earlier = run.record if resume else {}
        run.update(classes=spec.classes, data=dataset.summary() | {"mean": spec.mean, "std": spec.std})
        asked = (cfg.trainer.accelerator, plain(cfg.trainer)["devices"], cfg.trainer.num_nodes)
        devices = devices_of(*asked, data, global_batch=earlier.get("global_batch"))
        timer, restoring = EpochTime(), Restoring()
        callbacks = [restoring, Results(run, timer.rows, earlier), *build_callbacks(cfg, timer, devices.global_batch)]
        loggers = build_loggers(cfg, run)

        plan = plan_memory(
            data,
            devices,
            spec.build,
            memory=cfg.memory,
            micro_batches=cfg.micro_batches,
            precision=cfg.trainer.precision,
            compiles=cfg.compile,
            earlier=earlier.get("memory_plan"),
        )
        run.update(global_batch=devices.global_batch, memory_plan={"ranks": devices.world, **plan._asdict()})
        size = {"parameters": sum(parameter.numel() for parameter in network.parameters())}
        if cfg.fit.count:
            size = network_size(spec.build, channels=spec.decoding.channels, size=dataset.size)
        run.update(network=size)
        share = -(-devices.global_batch // devices.world)
        out_of_memory.advise(plan.to_take_less(share, dataset.size))
        set_up(network, data, devices, plan, synchronises=cfg.trainer.sync_batchnorm, compiles=cfg.compile)
        module = build_module(cfg, network, spec, data, devices, plan)
        trainer = build_trainer(
            plain(cfg.trainer),
            folder,
            devices,
            callbacks=callbacks,
            loggers=loggers,
            gradients=plain(cfg.gradients) if cfg.gradients else None,
            micro_batches=plan.micro_batches,
            gradient_bytes=sum(p.nbytes for p in network.parameters()),
        )
        # Lightning converts it later: after weights are averaged in a copy, and loaded, which would round those of fp64.
        trainer.precision_plugin.convert_module(module)
        data.trains_with(devices.global_batch, plan.micro_batches, partial(total_steps, trainer))
        introduce(cfg, trainer, module, devices, plan)
        if resume:
            go_on_from(resume, run, max_epochs=cfg.trainer.max_epochs or 0, allow=cfg.safety.allow)
            say_changes(earlier, options_of_training(cfg), dataset.summary()["images"])
        if cfg.run:
            run.update(since=since_begun(folder))
        run.update(options=options_of_training(cfg), precision=str(trainer.precision))
        with restoring.naming(resume):
            trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
    if trainer.is_global_zero:
        beside = [Path(cfg.fit.against)] if cfg.fit.against else []
        report = report_at_end([run.folder, *beside]) if cfg.fit.report else None
        show_results(run, trainer, timer.rows, report)
        if against and timer.rows:
            say_speed_up(timer.rows, against, cfg.fit.against)


def verb_of(cfg: DictConfig, run: Run) -> str:
    """`fit` or `pretrain`.

    Raises:
        ValueError: when the run that goes on is of the other one.
    """
    verb = "pretrain" if cfg.pretrain else "fit"
    if cfg.run and (began := run.record.get("task", verb)) != verb:
        raise ValueError(f"task={verb}: the run in {run.folder} is of task={began}, and goes on so; leave task= out")
    return verb


def check_task(cfg: DictConfig, data: ImageData) -> None:
    """Raises ValueError where data or options are not for what is to be learned."""
    dataset = data.dataset
    if not cfg.pretrain:
        dataset.check_classes()
        return
    for asked, option, why in (
        (cfg.compile, "compile=true", "compiles a network's answer, of which there is none"),
        (cfg.trainer.sync_batchnorm, "trainer.sync_batchnorm=true", "would let ranks wait for others that don't come"),
        (exporters_of(cfg), "export=...", "makes artifacts of networks that classify"),
        ("best_answers" in cfg.callbacks, "callbacks=...", "is for networks that classify"),
    ):
        if asked:
            raise ValueError(f"task=pretrain: {option} {why}; leave it out")
    if (largest := max(dataset.size)) < SMALLEST:
        raise ValueError(f"data.resolution={largest}: task=pretrain takes images of {SMALLEST} pixels or more")
    sizes = dataset.source_sizes if dataset.reader.varies else []
    crops = [data.augment.crops(size, progress) for size in sizes for progress in (0.0, 1.0)]
    if any(count == 1 and max(crop) < SMALLEST for count, crop in crops):
        raise ValueError(
            f"data.resolution=native: the smallest image gives one crop of less than the {SMALLEST} pixels that "
            f"task=pretrain takes alone; remove what has less a side, or give a data.resolution"
        )


def build_callbacks(cfg: DictConfig, timer: EpochTime, global_batch: int) -> list[Callback]:
    """Those of `callbacks=`, and what every run needs."""
    callbacks = [
        *instantiate(cfg.callbacks, _convert_="all").values(),
        timer,
        MicroBatches(),
        UnfinishedEpoch(),
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
    if "wandb" in cfg.logger and not cfg.trainer.fast_dev_run:
        from hct_lightning.callbacks.wandb_models import WandbModels  # W&B takes a second to import
        from hct_lightning.callbacks.wandb_run import WandbRun

        callbacks.append(WandbModels(artifacts=cfg.export.log))
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
    """Those of `logger=`, beside metrics.csv; none where Lightning replaces them, trying one batch."""
    if cfg.trainer.fast_dev_run:
        return []
    builders = {name: partial(instantiate, node, _convert_="all") for name, node in cfg.logger.items()}
    loggers = []
    if "wandb" in builders:
        from hct_lightning.callbacks.wandb_start import connected, name_and_group

        mine = name_and_group(run.folder, HydraConfig.get().runtime.choices.get("experiment"))
        asked = {key: value for key, value in mine.items() if cfg.logger.wandb.get(key) is None}
        loggers.append(connected(builders.pop("wandb"), run.record.get("id"), run.folder, **asked))
    return loggers + [build() for build in builders.values()]


def build_module(
    cfg: DictConfig, network: FromPixels, spec: NetworkSpec, data: ImageData, devices: Devices, plan: MemoryPlan
) -> ImageClassifier | MaskedImages:
    """The network with loss, optimiser and schedule."""
    options = {
        "optimizer": build_optimizer(cfg, devices.accelerator),
        "schedule": instantiate(cfg.schedule, _convert_="all"),
        "lr": cfg.optim.lr,
        "reference_batch": cfg.optim.reference_batch,
        "global_batch": devices.global_batch,
        "images_per_backward": devices.global_batch / (devices.world * plan.micro_batches),
        "spec": spec,
    }
    if cfg.pretrain:
        return MaskedImages(network, **plain(cfg.pretrain), **options)
    counts = Counter(data.dataset.catalogue.train.labels)
    return ImageClassifier(
        network,
        classes=spec.classes,
        class_weights=class_weights(cfg.loss.class_weights, [counts[i] for i in range(len(spec.classes))]),
        label_smoothing=cfg.loss.label_smoothing,
        **options,
    )


def build_optimizer(cfg: DictConfig, accelerator: str) -> Callable[..., torch.optim.Optimizer]:
    """That of `optim=`, with one kernel for all parameters where it has one for the device."""
    build = instantiate(cfg.optim.optimizer, _convert_="all")
    open_to_us = "fused" in inspect.signature(build).parameters and "fused" not in build.keywords
    # Lightning refuses to clip gradients in mixed precision for a fused one.
    fused = open_to_us and accelerator == "cuda" and not cfg.trainer.gradient_clip_val
    return partial(build, fused=True) if fused else build


def introduce(cfg: DictConfig, trainer: lightning.Trainer, module: Learner, devices: Devices, plan: MemoryPlan) -> None:
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
