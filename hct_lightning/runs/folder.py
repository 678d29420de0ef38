"""A run is a folder; this is what it holds and the record of how it went."""

import contextlib
import json
import os
import platform
import time
import uuid
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hct_lightning.machine import slurm as job
from hct_lightning.runs.endings import RankError, has_lost_another, is_interrupt, is_termination
from hct_lightning.runs.files import write_whole

_PACKAGES = ("hct-lightning", "torch", "lightning", "timm", "torchmetrics", "hydra-core", "pillow")


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
        return json.loads(self.record_path.read_text()) if self.record_path.exists() else {}

    def update(self, **fields: Any) -> None:
        """Adds fields to `run.json`, replacing the file as a whole."""
        if self.writes:
            text = json.dumps(self.record | fields, indent=2, default=str) + "\n"
            write_whole(self.record_path, text)

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

    @contextlib.contextmanager
    def recording(self, **fields: Any) -> Iterator[None]:
        """Records status, reason, times, versions and machine of what runs inside.

        The status is `running`, then `completed`, `failed` or `interrupted`.
        """
        started = time.time()
        self.update(
            **{"id": uuid.uuid4().hex[:8], "created": _now()} | self.record,
        )
        self.update(
            status="running",
            reason=None,
            pid=os.getpid(),
            started=_now(),
            ended=None,
            slurm=job.description(),
            versions={"python": platform.python_version()} | {p: version(p) for p in _PACKAGES},
            **fields,
        )
        status, reason = "completed", None
        try:
            yield
        except BaseException as error:
            status = "failed"
            if is_interrupt(error) or is_termination(error):
                status = "interrupted"
            reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            if not self.writes and job.is_rank():
                self._say_for_all(reason, status, error)
            elif not self.writes:
                with contextlib.suppress(OSError):
                    write_whole(self.folder / f".{os.getpid()}.rank-error", reason)
            elif other := self._what_another_rank_said(error):
                reason = other
                raise RankError(other) from error
            raise
        finally:
            # A full disk must not hide the error that led here.
            with contextlib.suppress(OSError) if status != "completed" else contextlib.nullcontext():
                seconds = round(time.time() - started, 1)
                self.update(status=status, reason=reason, ended=_now(), seconds=seconds)

    def _say_for_all(self, reason: str, status: str, error: BaseException) -> None:
        """Under srun: records why this rank ends, for its end kills rank 0 too, before a word.

        Unless rank 0 or another rank says why, first or, where this rank is not the cause, soon.
        """
        waits = has_lost_another(error) or status == "interrupted"
        deadline = time.monotonic() + (20 if waits else 0)
        while not self._has_ended():
            if time.monotonic() >= deadline:
                with contextlib.suppress(OSError):
                    Run(self.folder).update(status=status, reason=reason, ended=_now())
                return
            time.sleep(0.2)

    def _has_ended(self) -> bool:
        """Whether another rank of this Slurm job has recorded the end, not one before a restart."""
        record = self.record
        return record.get("slurm") == job.description() and record["status"] != "running"

    def _what_another_rank_said(self, error: BaseException) -> str | None:
        """The cause on another rank, where this one only lost its connection to it."""
        if not has_lost_another(error):
            return None
        if self.record["status"] == "failed":  # another rank that srun started has said so
            return self.record["reason"]
        died = f"a rank has died without a word ({error})"
        # At once: Lightning may kill this process, too, when it sees that another is gone.
        self.update(status="failed", reason=died, ended=_now())
        for _ in range(10):  # the other rank may still be saying it
            files = list(self.folder.glob(".*.rank-error"))
            if files:
                break
            time.sleep(0.1)
        said = [file.read_text() for file in sorted(files, key=lambda file: file.stat().st_mtime)]
        for file in files:
            file.unlink()
        return said[0] if said else died


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
