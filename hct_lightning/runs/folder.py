"""A run is a folder; this is what it holds and the record of how it went."""

import contextlib
import fcntl
import json
import logging
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hct_lightning.machine import ranks
from hct_lightning.machine import slurm as job
from hct_lightning.runs import endings
from hct_lightning.runs.files import locked, open_whole, write_whole
from hct_lightning.runs.overrides import without_slurm
from hct_lightning.runs.record import read_record
from hct_lightning.runs.secrets import hide_in

log = logging.getLogger(__name__)

_PACKAGES = ("hct-lightning", "torch", "lightning", "timm", "torchmetrics", "hydra-core", "pillow")


def is_of(record: Mapping[str, Any], overrides: Sequence[str]) -> bool:
    """Whether a record is that of a sweep's point, or a search's trial, which began with these options, in any order."""
    began = record.get("overrides")
    return isinstance(began, list) and sorted(without_slurm(began)) == sorted(without_slurm(hide_in(list(overrides))))


def refuse_replacing(folder: Path, overrides: Sequence[str]) -> None:
    """Refuses to begin a run where an earlier one has left checkpoints, which the new one would replace.

    A point of a sweep and a trial of a search have recorded the options that they begin with. With the same ones they
    are the same run.

    Args:
        folder: to begin in.
        overrides: options to begin with.

    Raises:
        ValueError: naming the checkpoints.
    """
    kept = sorted(path.name for path in (folder / "checkpoints").glob("*.ckpt"))
    if kept and not is_of(read_record(folder / "run.json"), overrides):
        raise ValueError(
            f"{folder} is the folder of an earlier run, whose {', '.join(kept[:5])} a new one would replace; "
            f"go on with run={folder}, or begin in another folder: hydra.run.dir, of a sweep hydra.sweep.dir"
        )


class Run:
    """The folder of a run and its `run.json`.

    Args:
        folder: where everything of the run lies; made when absent.
        writes: whether this process keeps the record (rank 0 alone does).
    """

    def __init__(self, folder: Path, *, writes: bool = True) -> None:
        self.folder = Path(folder)
        self.writes = writes
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def record_path(self) -> Path:
        return self.folder / "run.json"

    @property
    def record(self) -> dict[str, Any]:
        """What is known of the run so far; empty for a new one."""
        return read_record(self.record_path)

    def update(self, **fields: Any) -> None:
        """Adds fields to `run.json`, without secrets, replacing the file as a whole."""
        if self.writes:
            added = hide_in(json.loads(json.dumps(fields, default=str)))
            with locked(self.record_path):  # a watching thread, or another rank, may add at the same time
                write_whole(self.record_path, json.dumps(self.record | added, indent=2) + "\n")

    def checkpoint(self, name: str) -> Path:
        """The file behind `best`, `last` or a path.

        Raises:
            FileNotFoundError: naming what is there instead.
        """
        folder = self.folder / "checkpoints"
        path = folder / f"{name}.ckpt" if name in ("best", "last") else Path(name).expanduser()
        if not path.is_file():
            there = ", ".join(sorted(p.stem for p in folder.glob("*.ckpt"))) or "none"
            raise FileNotFoundError(
                f"ckpt={name}: there is no checkpoint {path} (in this run: {there}); "
                "give run=<folder of an earlier run> with ckpt=best or last, or ckpt=<file>"
            )
        return path

    def go_back(self, checkpoint: Path) -> None:
        """Makes a checkpoint the last one: stopped from here on, the run goes on from there."""
        if self.writes:
            with open_whole(self.folder / "checkpoints" / "last.ckpt") as file:
                file.write(checkpoint.read_bytes())

    @contextlib.contextmanager
    def recording(self, **fields: Any) -> Iterator[None]:
        """Records status, reason, times, versions and machine of what runs inside.

        The status is `running`, then `completed`, `failed` or `interrupted`. Rank 0 keeps the record; a rank
        whose end is the run's writes that itself, for rank 0 may be gone before it can.
        """
        started = time.time()
        if self.writes:
            endings.begin(self.folder)
        self.update(
            **{"id": uuid.uuid4().hex[:8], "created": _now()} | self.record,
        )
        begun: dict[str, Any] = {
            "pid": os.getpid(),
            "started": _now(),
            "ended": None,
            "slurm": job.description(),
            "versions": {"python": platform.python_version()} | {p: version(p) for p in _PACKAGES},
        }
        with self.together(records=True):
            try:
                self.update(status="running", reason=None, **begun, **fields)
                yield
            except BaseException as error:
                ending = endings.of_run(self.folder, error)
                if self.writes or ending.rank == ranks.rank():
                    self.end(ending.status, ending.reason, since=started)
                endings.recorded()
                raise
        if self.writes:
            self.end("completed", None, since=started)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Around what makes the run: no other process may be at it. Where the disk has no locks, it goes on without.

        Raises:
            ValueError: when another one is.
        """
        with contextlib.ExitStack() as held:
            try:
                if self.writes:
                    file = held.enter_context((self.folder / ".running").open("a"))
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if not job.goes_on():  # the node that it was on may be gone, and its lock not yet
                    raise ValueError(
                        f"{self.folder} is of a run that process {self.record.get('pid')} is training; wait for its end, or "
                        "end it"
                    ) from error
            except OSError as error:
                log.debug("%s: no locks here: %s", self.folder, error)
            yield

    @contextlib.contextmanager
    def together(self, *, records: bool = False) -> Iterator[None]:
        """Around what the ranks do together: rank 0 ends when another one has, even while it waits for that one for ever.

        Args:
            records: whether what they do is the run, of which `run.json` tells.
        """
        if self.writes:
            threading.Thread(target=self._end_with_the_others, args=(records,), daemon=True).start()
        try:
            yield
        finally:
            endings.completed()

    def end(self, status: str, reason: str | None, *, since: float | None = None) -> None:
        """Records how the run has ended; any rank may, also one that does not keep the record.

        Args:
            status: `completed`, `failed` or `interrupted`.
            reason: why, unless it is completed.
            since: when it began, in seconds since the epoch.
        """
        seconds = {"seconds": round(time.time() - since, 1)} if since else {}
        # A full disk must not hide the error that led here.
        with contextlib.suppress(OSError) if status != "completed" else contextlib.nullcontext():
            Run(self.folder).update(status=status, reason=reason, ended=_now(), **seconds)

    def _end_with_the_others(self, records: bool) -> None:
        """Ends this process when another rank has ended, and the main thread waits for it for ever."""
        while not endings.ends_by_itself(within_s=0.2):
            if endings.told(self.folder) and not endings.ends_by_itself(within_s=endings.GRACE_S):
                ending = endings.of_run(self.folder)
                if records:
                    self.end(ending.status, ending.reason)
                endings.at_once(ending, self.folder, go_on=self.folder if records else None)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
