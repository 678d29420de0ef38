"""Trains, and leaves a run's folder that says everything about it."""

import logging
from functools import partial
from pathlib import Path
from typing import Any

import lightning
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from hct_lightning.callbacks.epoch_time import EpochTime
from hct_lightning.callbacks.export import ExportAtEnd
from hct_lightning.callbacks.micro_batches import MicroBatches
from hct_lightning.console import results
from hct_lightning.data.datamodule import ImageData
from hct_lightning.deploy.artifact import read_descriptions
from hct_lightning.module import ImageClassifier
from hct_lightning.network import build_network, load_weights
from hct_lightning.parallel.devices import choose_devices
from hct_lightning.parallel.memory import choose_memory
from hct_lightning.run import Run, is_rank_zero
from hct_lightning.runtime import resolve_precision
from hct_lightning.slurm import job
from hct_lightning.training import build_trainer

log = logging.getLogger(__name__)

PARTS_SHOWN = {"loading": "load_s", "training": "train_s", "waiting": "wait_s", "running": "run_s"}


def main(cfg: DictConfig, folder: Path) -> None:
    """`task=fit`: a new run in `folder`; the one there goes on with `run=`, or on Slurm again."""
    run = Run(folder, writes=is_rank_zero())
    if job.goes_on() and not cfg.run and run.record.get("status") == "completed":
        log.info("done already: %s", folder)
        return
    with run.recording(task="fit"):
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
            name: exporter
            for name, exporter in instantiate(cfg.export, _convert_="all").items()
            if callable(exporter)
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


def describe(summary: dict[str, Any]) -> None:
    """Says in a few lines which data this is and what will be made of it."""
    counts = summary["counts"]
    log.info("data: %s", summary["source"])
    for name, number in summary["images"].items():
        each = ", ".join(f"{cls} {count}" for cls, count in counts[name].items())
        log.info("  %s: %d images (%s)", name, number, each)
    small, large = (f"{h}x{w}" for h, w in summary["source_size"].values())
    height, width = summary["resolution"]
    log.info(
        "  %d channel(s), %s -> %dx%d (%s)",
        summary["channels"], small if small == large else f"{small} to {large}",
        height, width, summary["geometry"],
    )  # fmt: skip
    for note in summary["notes"]:
        log.info("  note: %s", note)


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


def show_results(run: Run, trainer: lightning.Trainer, times: list[dict[str, float]]) -> None:
    """Tables of results and times, and where things lie, on standard output."""
    metrics = run.record["metrics"]
    scores = Table("", "last epoch", title="Validation", title_justify="left")
    for name in ("accuracy", "balanced_accuracy", "f1", "auroc", "loss"):
        if f"val/{name}" in metrics:
            scores.add_row(name.replace("_", " "), f"{metrics[f'val/{name}']:.4f}")
    monitor = getattr(trainer.checkpoint_callback, "monitor", None)
    if "best" in metrics:
        scores.add_row(f"best {str(monitor).removeprefix('val/')}", f"{metrics['best']:.4f}")
    clock = time_table(times, metrics.get("memory/peak_gib"))
    places = Table("what", "where", title="Results", title_justify="left")
    places.add_row("run", str(run.folder))
    for name in ("best", "last"):
        if (path := run.folder / "checkpoints" / f"{name}.ckpt").exists():
            places.add_row(f"checkpoint ckpt={name}", str(path.relative_to(run.folder)))
    for name, description in read_descriptions(run.folder / "artifacts").items():
        size = f"{description['size_bytes'] / 1e6:.2f} MB"
        places.add_row(f"artifact {name}, {size}", f"artifacts/{name}/")
    places.add_row("every metric", "metrics.csv")
    console = results()
    for table in (scores, clock, places):
        if table.row_count:
            console.print(table)


def time_table(times: list[dict[str, Any]], peak_gib: float | None) -> Table:
    """Seconds per epoch, the mean over epochs: over the ranks, and of each where there are some."""
    table = Table("per epoch", *PARTS_SHOWN, "images/s", "peak memory", title="Time")
    table.title_justify = "left"
    if not times:
        return table

    def seconds(rows: list[dict[str, float]]) -> list[str]:
        return [f"{sum(r[part] for r in rows) / len(rows):.2f} s" for part in PARTS_SHOWN.values()]

    images_s = sum(row["images_s"] for row in times) / len(times)
    peak = "" if peak_gib is None else f"{peak_gib:.2f} GiB"
    ranks = len(times[0]["ranks"])
    name = "mean" if ranks == 1 else f"mean of {ranks} ranks"
    table.add_row(name, *seconds(times), f"{images_s:.1f}", peak)
    for rank in range(ranks if ranks > 1 else 0):
        table.add_row(f"rank {rank}", *seconds([row["ranks"][rank] for row in times]))
    return table


def say_speed_up(times: list[dict[str, Any]], against: str) -> None:
    """A line: how much faster an epoch's parts are than those of an earlier run, per image.

    Raises:
        ValueError: when the earlier run has no times.
    """
    earlier = Run(Path(against).expanduser()).record.get("epoch_times")
    if not earlier:
        raise ValueError(f"fit.against={against}: that run has recorded no epoch times")

    def per_image(rows: list[dict[str, Any]], parts: tuple[str, ...]) -> float:
        return sum(
            sum(r[part] for part in parts) / (r["images_s"] * r["run_s"]) for r in rows
        ) / len(rows)

    shown = {"loading": ("load_s",), "training": ("train_s", "wait_s"), "running": ("run_s",)}
    ratios = (
        f"{name} {per_image(earlier, parts) / per_image(times, parts):.2f}"
        for name, parts in shown.items()
    )
    log.info("speed-up per image against %s: %s", against, ", ".join(ratios))
