"""Artifacts of the best checkpoint, made when fitting ends.

| key                         | what                                                   |
|-----------------------------|--------------------------------------------------------|
| export/<name>/size_mb       | of all that must be shipped, in 10^6 bytes             |
| export/<name>/time_ms       | median of one image at the run's resolution            |
| export/<name>/accuracy      | on validation images, a fraction                       |
| export/<name>/accuracy_fp32 | of the network before, on the same images              |
| export/<name>/agreement     | share of images on which both predict the same class   |
| export/<name>/sqnr_db       | of the logits against the network's                    |
"""

import contextlib
import datetime
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback

from hct_lightning.deploy.artifact import read_descriptions
from hct_lightning.deploy.export import Exporter, NoImagesError, Reference, export_artifact
from hct_lightning.machine.runtime import cpu_count
from hct_lightning.report.card import write_card
from hct_lightning.training.checkpoints import load_network

log = logging.getLogger(__name__)

LOGGED = ("time_ms", "accuracy", "accuracy_fp32", "agreement", "sqnr_db")


class ExportAtEnd(Callback):
    """Exports `checkpoints/best.ckpt` to `artifacts/<name>/` on rank 0, while the others wait.

    Args:
        exporters: by the names of the artifacts.
        dynamic: leave height and width open.
        calibration: training images that int8 ranges are measured on.
        evaluation: validation images that accuracy is measured on, before and after; 0 for none.
        license: of the weights, for the artifacts' cards; None: none is chosen.
        allow: packages beside the built-in ones that the model may come from.
    """

    def __init__(
        self,
        exporters: Mapping[str, Exporter],
        *,
        dynamic: bool,
        calibration: int,
        evaluation: int,
        license: str | None,
        allow: tuple[str, ...] = (),
    ) -> None:
        self.exporters = exporters
        self.dynamic = dynamic
        self.calibration = calibration
        self.evaluation = evaluation
        self.license = license
        self.allow = allow
        self._group: Any = None  # of the ranks that wait; None for one alone

    def on_fit_start(self, trainer: Any, module: Any) -> None:
        # The process group's own timeout of 30 minutes may be too short for calibration on large images. One of its own
        # is made while all ranks are sure to be there.
        if dist.is_initialized() and self.exporters:
            self._group = dist.new_group(backend="gloo", timeout=datetime.timedelta(days=1))

    def on_train_end(self, trainer: Any, module: Any) -> None:
        if self._group and dist.get_world_size() < len(trainer.strategy.parallel_devices) * trainer.num_nodes:
            self.on_fit_start(trainer, module)  # ranks were lost, and with them the group

    def on_fit_end(self, trainer: Any, module: Any) -> None:
        if not self.exporters or trainer.fast_dev_run:
            return
        with _others_waiting(self._group):
            if trainer.is_global_zero:
                self._export(trainer)

    def _export(self, trainer: Any) -> None:
        run = Path(trainer.default_root_dir)
        best = run / "checkpoints" / "best.ckpt"
        if not best.exists():
            log.warning("nothing exported: there is no %s; task=export ckpt=last makes artifacts of the last", best)
            return
        network, spec = load_network(best, self.allow)
        data = trainer.datamodule
        calibration = data.calibration(self.calibration)
        reference = None
        if self.evaluation:
            try:
                reference = Reference(network, data.evaluation(self.evaluation))
            except NoImagesError as error:  # at the end of a long run
                log.warning("artifacts are made, and not compared with the network: %s", error)
        for name, exporter in self.exporters.items():
            made = export_artifact(
                name,
                exporter,
                network,
                run / "artifacts",
                spec=spec.as_json(),
                dynamic=self.dynamic,
                calibration=calibration,
                reference=reference,
            )
            write_card(made, run, model=spec.model, license=self.license)
        described = read_descriptions(run / "artifacts")
        for name in self.exporters:
            about = described[name]["metrics"] | {"size_mb": described[name]["size_bytes"] / 1e6}
            keys = ("size_mb", *(key for key in LOGGED if key in about))
            for logger in trainer.loggers:
                logger.log_metrics({f"export/{name}/{key}": about[key] for key in keys}, trainer.global_step)


@contextlib.contextmanager
def _others_waiting(group: dist.ProcessGroup | None) -> Iterator[None]:
    """Under DDP no rank leaves before all are through, however long rank 0 takes.

    Waiting ranks don't compute: rank 0 gets their threads.
    """
    if group is None:
        yield
        return
    threads = torch.get_num_threads()
    try:
        if dist.get_rank() == 0:
            torch.set_num_threads(cpu_count())
        yield
    finally:
        torch.set_num_threads(threads)
        dist.barrier(group)
