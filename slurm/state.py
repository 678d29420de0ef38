"""How the jobs of a folder are doing: what Slurm says of them, and what their runs say."""

import csv
import json
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.table import Table

from hct_lightning.runs.console import results
from hct_lightning.runs.files import write_whole
from hct_lightning.runs.folder import Run
from hct_lightning.runs.overrides import without_slurm
from hct_lightning.runs.printable import printable
from hct_lightning.runs.record import read_record
from hct_lightning.runs.secrets import hide_in

POINTS = "slurm.json"
# Slurm's states in which a job is over; in all others it waits, runs or is being put back.
OVER = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "TIMEOUT",
    "unknown",
}


class Point(NamedTuple):
    """A job and its run.

    job: Slurm's id, 123 or 123_4.
    state: Slurm's, see `slurm_states`.
    overrides: what distinguishes it from the other points.
    run: the run's folder, status, reason, epochs done, validation accuracy and restarts; None or 0
        while there is none.
    """

    job: str
    state: str
    overrides: str
    run: Path | None = None
    status: str | None = None
    reason: str | None = None
    epoch: int | None = None
    accuracy: float | None = None
    restarts: int = 0


def remember(folder: Path, jobs: Sequence[str], overrides: Sequence[Sequence[str]]) -> None:
    """Adds jobs that were submitted for points of `folder` to its `slurm.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    earlier = _remembered(folder)
    new = [{"job": j, "overrides": hide_in(list(o))} for j, o in zip(jobs, overrides, strict=True)]
    write_whole(folder / POINTS, json.dumps(earlier + new, indent=2) + "\n")


def check_same(folder: Path, overrides: Sequence[Sequence[str]]) -> None:
    """Refuses other options than those of an earlier submission to the folder, whose points go on there.

    Raises:
        ValueError: when an option other than Slurm's differs.
    """

    def options(points: Iterable[Sequence[str]]) -> list[list[str]]:
        return [sorted(without_slurm(point)) for point in points]

    earlier = options(point["overrides"] for point in _remembered(folder))
    if any(hide_in(point) not in earlier for point in options(overrides)) and earlier:
        raise ValueError(
            f"{folder} holds runs with other options; give another hydra.sweep.dir, or go on with "
            f"those: python -m hct_lightning run={folder} and the same +slurm=..."
        )


def _remembered(folder: Path) -> list[dict]:
    path = folder / POINTS
    return json.loads(path.read_text()) if path.exists() else []


def read(folder: Path) -> list[Point]:
    """The points that were submitted for a folder, and the runs in it that Slurm ran otherwise.

    Raises:
        ValueError: when there is neither.
    """
    submitted = _remembered(folder)
    runs = {}
    for path in sorted(path for depth in ("", "*/", "*/*/") for path in folder.glob(f"{depth}run.json")):
        record = read_record(path)
        if record.get("slurm"):
            runs[record["slurm"]["job"]] = (path.parent, record)
    jobs = [point["job"] for point in submitted]
    jobs += [job for job in runs if job not in jobs]
    if not jobs:
        raise ValueError(f"{folder}: nothing in this folder was run by Slurm")
    states = slurm_states(jobs)
    overrides = {point["job"]: point["overrides"] for point in submitted}
    shared = set.intersection(*map(set, overrides.values())) if overrides else set()
    points = []
    for job in jobs:
        shown = " ".join(o for o in overrides.get(job, ()) if o not in shared)
        point = Point(job, states[job], shown)
        if job in runs:
            run, record = runs[job]
            status, reason = record.get("status"), record.get("reason")
            if status == "running" and point.state in OVER:  # it had no time to say so
                status, reason = "failed", f"Slurm ended it: {point.state}"
            epoch, accuracy = _progress(run / "metrics.csv")
            restarts = record["slurm"]["restarts"]
            point = Point(job, states[job], shown, run, status, reason, epoch, accuracy, restarts)
        points.append(point)
    return points


def _progress(path: Path) -> tuple[int | None, float | None]:
    """Epochs that were validated, and the last one's accuracy."""
    if path.exists():
        with path.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row.get("val/accuracy")]
        if rows:
            return int(float(rows[-1]["epoch"])) + 1, float(rows[-1]["val/accuracy"])
    return None, None


def slurm_states(jobs: Iterable[str]) -> dict[str, str]:
    """Slurm's state of each job: the controller's, else that of the accounting.

    `unknown` when the controller has forgotten the job, or never knew it, and the accounting has no state of it;
    `no answer` when the controller does not answer, and the accounting has none.
    """
    jobs = list(jobs)
    ids = ",".join(sorted({job.partition("_")[0] for job in jobs}))
    found, unheard = {}, "no answer"
    for command in (
        ["sacct", "-n", "-X", "-P", "-o", "JobID,State", "-j", ids],
        ["squeue", "-h", "-r", "-t", "all", "-o", "%i|%T", "-j", ids],
    ):
        try:
            said = subprocess.run(command, capture_output=True, text=True, timeout=60)
        except (FileNotFoundError, subprocess.TimeoutExpired):
            continue
        # Right after submission the accounting may not know a job yet.
        if command[0] == "squeue" and (said.returncode == 0 or "Invalid job id" in said.stderr):
            unheard = "unknown"
        for line in said.stdout.splitlines() if said.returncode == 0 else ():
            job, _, state = line.partition("|")
            found[job] = state.split()[0]  # CANCELLED by 1000
    return {job: found.get(job, unheard) for job in jobs}


def wait(jobs: Sequence[str], *, longest_s: float = 30.0) -> None:
    """Returns when all jobs are over; says when the state of one changes.

    Args:
        jobs: Slurm's ids.
        longest_s: the time between two looks, which grows from a second to this.
    """
    before: dict[str, str] = {}
    pause_s = 1.0
    while True:
        states = slurm_states(jobs)
        for job, state in states.items():
            if state != before.get(job):
                print(f"job {job}: {state}", file=sys.stderr)
        # A job that is put back into the queue may seem to be over for a moment: look twice.
        if all(s in OVER for s in states.values()) and states == before:
            return
        before = states
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.3, longest_s)


def settle(points: Iterable[Point]) -> None:
    """Writes into `run.json` what a run that Slurm ended could not say itself."""
    for point in points:
        over = point.state in OVER and point.status
        if point.run and over and Run(point.run).record.get("status") == "running":
            Run(point.run).end(over, point.reason)


def show(points: Sequence[Point]) -> None:
    """A table on standard output, and below it the reasons of what failed."""
    table = Table("job", "Slurm", "run", "epoch", "accuracy", "restarts", "options", "folder")
    for point in points:
        cells = (
            point.job,
            point.state,
            point.status,
            point.epoch,
            None if point.accuracy is None else f"{point.accuracy:.4f}",
            point.restarts or None,
            point.overrides,
            point.run,
        )
        table.add_row(*("" if cell is None else str(cell) for cell in cells))
    results().print(table)
    for point in points:
        if point.reason:
            print(printable(f"job {point.job}: {' '.join(point.reason.split())}"))
