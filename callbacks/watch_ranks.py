"""A rank that dies ends the run, with a word about why."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from hct_lightning.runs import signals
from hct_lightning.runs.folder import Run


class WatchRanks(Callback):
    """On rank 0 watches the ranks that Lightning started on this machine.

    When one of them dies, rank 0's next collective usually fails and says so. Where it does not
    (it computes, or NCCL waits), this ends the run after `patience_s`, with the rank's status in
    `run.json` and on standard error. Lightning's own observer kills rank 0 without a word, at a
    moment of its own; it is sent home.
    """

    def __init__(self, *, patience_s: float = 10) -> None:
        self.patience_s = patience_s
        self._over = threading.Event()

    def setup(self, trainer: lightning.Trainer, module: Any, stage: str) -> None:
        launcher = trainer.strategy.launcher
        ranks: list[subprocess.Popen] = list(getattr(launcher, "procs", ()))
        if not ranks:
            return
        launcher.procs.clear()  # the list that the observer looks at: none left to watch, it ends
        launcher.procs = ranks
        folder = Path(trainer.default_root_dir)
        threading.Thread(target=self._watch, args=(ranks, folder), daemon=True).start()

    def _watch(self, ranks: list[subprocess.Popen], folder: Path) -> None:
        while not any(rank.poll() for rank in ranks):
            if self._over.wait(0.5):
                return
        if self._over.wait(self.patience_s):
            return
        number, rank = next((i, rank) for i, rank in enumerate(ranks, 1) if rank.poll())
        reason = f"rank {number} has died: {signals.in_words(rank.returncode)}"
        for other in ranks:
            other.kill()
        Run(folder).update(status="failed", reason=reason, ended=time.strftime("%FT%T%z"))
        print(f"error: {reason}", file=sys.stderr, flush=True)
        os._exit(1)  # the main thread waits for a rank that is gone

    def on_exception(self, trainer: lightning.Trainer, module: Any, error: BaseException) -> None:
        self._over.set()

    def teardown(self, trainer: lightning.Trainer, module: Any, stage: str) -> None:
        self._over.set()
