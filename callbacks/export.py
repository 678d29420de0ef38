"""Artifacts of the best checkpoint, made when fitting ends."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from hct_lightning.deploy.artifact import Exporter, export_artifact
from hct_lightning.network import load_network

log = logging.getLogger(__name__)


class ExportAtEnd(Callback):
    """Exports `checkpoints/best.ckpt` to `artifacts/<name>/` on rank 0.

    Args:
        exporters: by the names of the artifacts.
        dynamic: leave height and width open.
        allow: packages beside the built-in ones that the model may come from.
    """

    def __init__(
        self,
        exporters: Mapping[str, Exporter],
        *,
        dynamic: bool = False,
        allow: tuple[str, ...] = (),
    ) -> None:
        self.exporters = exporters
        self.dynamic = dynamic
        self.allow = allow

    def on_fit_end(self, trainer: lightning.Trainer, module: Any) -> None:
        if not trainer.is_global_zero or not self.exporters or trainer.fast_dev_run:
            return
        run = Path(trainer.default_root_dir)
        best = run / "checkpoints" / "best.ckpt"
        if not best.exists():
            log.warning("nothing exported: there is no %s", best)
            return
        network, spec = load_network(best, self.allow)
        for name, exporter in self.exporters.items():
            export_artifact(name, exporter, network, spec, run / "artifacts", dynamic=self.dynamic)
