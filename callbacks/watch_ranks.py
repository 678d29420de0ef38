"""A rank that dies ends the run, with a word about why."""

import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from torch import distributed

from hct_lightning.runs import endings
from hct_lightning.runs.folder import Run


class WatchRanks(Callback):
    """Says for ranks that die what they can't say themselves, and on every rank why it ends, at once.

    The first rank of a machine watches those that Lightning started there. When one dies, the next collective of
    the others usually fails and the run ends in order. Where it does not (they compute, or wait for ever), this
    ends it after `patience_s`; with NCCL at once, for its watchdog would abort the process. Lightning's own
    observer kills the first rank without a word, at a moment of its own; it is sent home.
    A strategy may go on without a rank that was killed; one that ends with an error of its own ends the run.

    Args:
        patience_s: seconds from the end of a rank to the end of the others.
        records: whether what they do is the run, of which `run.json` tells.
    """

    def __init__(self, *, patience_s: float = 10, records: bool = True) -> None:
        self.patience_s = patience_s
        self.records = records
        self._over = threading.Event()

    def setup(self, trainer: lightning.Trainer, module: Any, stage: str) -> None:
        launcher: Any = trainer.strategy.launcher
        ranks: list[subprocess.Popen] = list(getattr(launcher, "procs", ()))
        if not ranks:
            return
        self._over = threading.Event()  # a trainer may validate again
        launcher.procs.clear()  # the list that the observer looks at: none left to watch, it ends
        launcher.procs = ranks
        endings.before_at_once(lambda: self._finish(trainer, ranks))
        missed_by_nobody = getattr(trainer.strategy, "goes_on_without", lambda number: False)
        watch = (ranks, Path(trainer.default_root_dir), missed_by_nobody, self._over)
        threading.Thread(target=self._watch, args=watch, daemon=True).start()

    def _watch(
        self,
        ranks: list[subprocess.Popen],
        folder: Path,
        missed_by_nobody: Callable[[int], bool],
        over: threading.Event,
    ) -> None:
        def goes_on(number: int) -> bool:
            return not endings.told(folder) and missed_by_nobody(number)

        watched = dict(enumerate(ranks, 1))
        while not (died := [number for number, rank in watched.items() if rank.poll()]) or goes_on(died[0]):
            if died:
                del watched[died[0]]
            if over.wait(0.1):
                return
        ending = endings.leave_for(str(died[0]), watched[died[0]].returncode, folder)
        if self.records:
            Run(folder).end(ending.status, ending.reason)
        aborts = distributed.is_initialized() and distributed.get_backend() == "nccl"
        if not endings.ends_by_itself(within_s=0 if aborts else self.patience_s):
            endings.at_once(ending, folder, go_on=folder if self.records else None)

    def _finish(self, trainer: lightning.Trainer, ranks: list[subprocess.Popen]) -> None:
        for rank in ranks:
            rank.kill()
        for logger in getattr(trainer, "loggers", ()):
            logger.finalize("failed")

    def on_exception(self, trainer: lightning.Trainer, module: Any, error: BaseException) -> None:
        endings.leave(error, Path(trainer.default_root_dir))

    def teardown(self, trainer: lightning.Trainer, module: Any, stage: str) -> None:
        self._over.set()
