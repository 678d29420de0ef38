"""Trains, and leaves a run's folder that says everything about it."""

import logging
from functools import partial
from pathlib import Path
from typing import Any

import lightning
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from hct_lightning.callbacks.epoch_time import EpochTime
from hct_lightning.callbacks.export import ExportAtEnd
from hct_lightning.callbacks.micro_batches import MicroBatches
from hct_lightning.data.datamodule import ImageData
from hct_lightning.machine import slurm as job
from hct_lightning.machine.devices import choose_devices
from hct_lightning.machine.facts import machine_facts
from hct_lightning.machine.ranks import is_rank_zero
from hct_lightning.machine.runtime import resolve_precision
from hct_lightning.report.tables import describe, say_speed_up, show_results
from hct_lightning.runs.folder import Run
from hct_lightning.training.checkpoints import build_network, load_weights
from hct_lightning.training.memory import choose_memory
from hct_lightning.training.module import ImageClassifier
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
        data.prepare()
        describe(data.summary())
        run.update(classes=data.classes, data=data.summary())

        spec = {
            "model": OmegaConf.to_container(cfg.model, resolve=True),
            "classes": list(data.classes),
            "channels": data.channels,
            "resolution": list(data.size),
            "geometry": data.geometry,
            "mean": list(data.mean),
            "std": list(data.std),
            "window": list(data.window) if data.window else None,
        }
        network = build_network(spec)
        begun = job.goes_on() and (folder / "checkpoints" / "last.ckpt").exists()
        goes_on = cfg.run or begun
        resume = run.checkpoint("last") if goes_on else None
        if cfg.ckpt and not goes_on:
            load_weights(network, run.checkpoint(cfg.ckpt), cfg.safety.allow)

        exporters = {
            name: exporter for name, exporter in instantiate(cfg.export, _convert_="all").items() if callable(exporter)
        }
        timer = EpochTime()
        devices = choose_devices(
            cfg.trainer.accelerator,
            OmegaConf.to_container(cfg.trainer, resolve=True)["devices"],
            cfg.trainer.num_nodes,
            data.batch_size,
        )
        if devices.note:
            log.info(devices.note)
        begun_with = run.record.get("global_batch") if resume else None
        if begun_with not in (None, devices.global_batch):
            log.info("this run has a global batch of %d, and keeps it", begun_with)
            devices = devices._replace(global_batch=begun_with)
        run.update(global_batch=devices.global_batch)
        if len(data.catalogue.train) < devices.global_batch:
            raise ValueError(
                f"{len(data.catalogue.train)} training images are fewer than one global batch of "
                f"{devices.global_batch}; use a smaller data.batch_size or fewer trainer.devices"
            )
        memory, micro_batches = cfg.memory, cfg.trainer.accumulate_grad_batches
        earlier = run.record.get("memory_plan") if resume else None
        if earlier and earlier["ranks"] == devices.world:  # else the weights would not be the same
            memory = earlier["memory"] if memory == "auto" else memory
            micro_batches = earlier["micro_batches"] if micro_batches == "auto" else micro_batches
        plan = partial(
            choose_memory,
            memory=memory,
            micro_batches=micro_batches,
            build=partial(build_network, spec),
            channels=data.channels,
            size=data.size,
            batch_size=data.batch_size,
            ranks_here=devices.ranks_here,
            precision=resolve_precision(cfg.trainer.precision, devices.accelerator),
        )
        callbacks = [
            *instantiate(cfg.callbacks, _convert_="all").values(),
            timer,
            MicroBatches(devices.global_batch, plan),
            ExportAtEnd(
                exporters,
                dynamic=cfg.export.dynamic,
                calibration=cfg.export.calibration,
                evaluation=cfg.export.evaluation,
                allow=tuple(cfg.safety.allow),
            ),
        ]
        loggers = []
        for name, node in cfg.logger.items():
            if name == "wandb":
                loggers.append(wandb_logger(node, run.record.get("id")))
            else:
                loggers.append(instantiate(node, _convert_="all"))
        trainer = build_trainer(cfg, folder, devices, callbacks=callbacks, loggers=loggers)
        if "wandb" in cfg.logger:
            from hct_lightning.callbacks.wandb_run import WandbRun

            resolved = OmegaConf.to_container(cfg, resolve=True)
            trainer.callbacks.append(WandbRun(resolved | {"global_batch": devices.global_batch}))
        module = ImageClassifier(
            network,
            classes=data.classes,
            optimizer=instantiate(cfg.optim.optimizer, _convert_="all"),
            schedule=instantiate(cfg.schedule, _convert_="all"),
            lr=cfg.optim.lr,
            reference_batch=cfg.optim.reference_batch,
            global_batch=devices.global_batch,
            class_weights=class_weights(cfg.loss.class_weights, data),
            label_smoothing=cfg.loss.label_smoothing,
            spec=spec,
        )
        log.info(
            "%s, %.2f M parameters; %s x %d, %s; global batch %d, lr %.3g",
            cfg.model._target_.rpartition(".")[2],
            sum(p.numel() for p in network.parameters()) / 1e6,
            trainer.strategy.root_device.type,
            trainer.world_size,
            trainer.precision,
            devices.global_batch,
            module.lr * module.scale,
        )
        if resume:
            log.info("resuming from %s", resume)
        trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
        run.update(
            metrics=read_metrics(trainer),
            confusion=module.confusion.tolist() if module.confusion is not None else None,
            epoch_times=timer.rows,
        )
    if trainer.is_global_zero:
        show_results(run, trainer, timer.rows)
        if cfg.fit.against:
            say_speed_up(timer.rows, cfg.fit.against)


def class_weights(option: Any, data: ImageData) -> list[float] | None:
    """The option `loss.class_weights`: none, `balanced` (inverse frequency) or a list.

    Scaled to a mean of 1 over the training images, so that the learning rate keeps its meaning.
    """
    if option is None:
        return None
    counts = [data.catalogue.train.labels.count(i) for i in range(len(data.classes))]
    if option == "balanced":
        weights = [1 / count if count else 0.0 for count in counts]
    else:
        weights = [float(weight) for weight in option]
    if len(weights) != len(counts):
        raise ValueError(f"loss.class_weights has {len(weights)} weights for {len(counts)} classes")
    mean = sum(w * n for w, n in zip(weights, counts, strict=True)) / sum(counts)
    if min(weights) < 0 or mean == 0:
        raise ValueError(f"loss.class_weights={weights}: give weights of at least 0, not all 0")
    return [weight / mean for weight in weights]


def wandb_logger(node: DictConfig, run_id: str | None) -> Any:
    """W&B's logger; offline where W&B can't be reached, for training does not need it.

    The same W&B run goes on when this one is resumed.
    """
    import wandb

    options = {"id": run_id, "resume": "allow"}
    logger = instantiate(node, **options, _convert_="all")
    try:
        _ = logger.experiment  # connects, on rank 0
    except wandb.errors.Error as error:
        log.warning("W&B can't be reached (%s); logging offline, see `wandb sync`", error)
        wandb.teardown()  # its service holds the run's id otherwise
        logger = instantiate(node, **options, mode="offline", _convert_="all")
    return logger


def read_metrics(trainer: lightning.Trainer) -> dict[str, float]:
    """The last values of everything that was logged, and the best validation accuracy."""
    metrics = {name: value.item() for name, value in sorted(trainer.callback_metrics.items())}
    best = getattr(trainer.checkpoint_callback, "best_model_score", None)
    if best is not None:
        metrics["best"] = best.item()
    return metrics
