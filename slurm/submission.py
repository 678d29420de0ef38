"""Submits the points of a run or sweep, and waits for them or leaves."""

import functools
import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import submitit
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from submitit.core.utils import FailedJobError

from hct_lightning.cli.sweep import ReportSweep
from hct_lightning.slurm import state


class Submission(Callback):
    """Hydra's hook around a multirun whose launcher is submitit's for Slurm.

    Left alone, the launcher waits for each job's result, asks Slurm's accounting about jobs that
    left none, and waits for ever where there is no accounting. So its executor is replaced by
    one whose jobs count as done once they are submitted; waiting is done here, by `state`.

    Args:
        wait: for the jobs to end; else submit and leave.
        python: the command that starts Python on the nodes; None: this interpreter.
        container: image for Pyxis.
        environment: variables of the job.
        srun: further arguments of srun.
    """

    def __init__(
        self,
        *,
        wait: bool,
        python: str | None,
        container: str | None,
        environment: Mapping[str, Any],
        srun: Sequence[str],
    ) -> None:
        self.wait = wait
        self.python = python
        self.setup = [f"export {k}={shlex.quote(str(v))}" for k, v in environment.items()]
        # A rank that has died takes the others along: they would wait for it.
        self.srun = ["--kill-on-bad-exit=1", *srun]
        if container:
            self.srun.append(f"--container-image={container}")
        self.jobs: list[str] = []

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        if shutil.which("sbatch") is None:
            sys.exit("error: +slurm=... submits with sbatch, which this machine does not have")
        if not isinstance(config.trainer.devices, int):
            sys.exit(
                f"error: trainer.devices={config.trainer.devices}: Slurm has to be told how many; "
                "give the number for each node, trainer.devices=4 say"
            )
        submitit.AutoExecutor = functools.partial(Executor, self, home(config), new=config.run is None)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        folder = home(config)
        ids = " ".join(sorted({job.partition("_")[0] for job in self.jobs}))
        print(
            f"submitted job {ids}: {len(self.jobs)} point(s) in {folder}\n"
            f"  state: python -m hct_lightning.slurm {shlex.quote(str(folder))}\n"
            f"  end:   scancel {ids}",
            flush=True,
        )
        if not self.wait:
            sys.exit(0)  # without the sweep's report: there is nothing to report yet
        try:
            state.wait(self.jobs)
        except KeyboardInterrupt:
            sys.exit("not waiting any more; the jobs go on")
        points = [point for point in state.read(folder) if point.job in self.jobs]
        state.settle(points)
        state.show(points)
        if any(point.state != "COMPLETED" for point in points):
            ReportSweep().on_multirun_end(config)
            sys.exit(1)


def home(config: DictConfig) -> Path:
    """The folder of the sweep, or of the earlier run (`run=`) that goes on."""
    folder = Path(config.hydra.sweep.dir)
    return folder.parent if config.run and folder.name == "slurm" else folder


class Executor(submitit.AutoExecutor):
    """Submitit's executor with the options of a `Submission`; writes down what it submits."""

    def __init__(self, submission: Submission, folder_of_points: Path, *, new: bool, **options: Any) -> None:
        super().__init__(**options, slurm_python=submission.python)
        self.submission = submission
        self.folder_of_points = folder_of_points
        self.new = new

    def update_parameters(self, **parameters: Any) -> None:
        parameters["slurm_setup"] = [*self.submission.setup, *parameters.get("slurm_setup", ())]
        srun = list(self.submission.srun)
        if cpus := parameters.get("cpus_per_task"):
            srun.append(f"--cpus-per-task={cpus}")  # srun does not take it from sbatch
        super().update_parameters(**parameters, slurm_srun_args=srun)

    def map_array(self, fn: Any, *iterable: Iterable[Any]) -> list["Submitted"]:
        arguments = [list(values) for values in iterable]
        try:
            if self.new:
                state.check_same(self.folder_of_points, arguments[0])
            jobs = super().map_array(fn, *arguments)
        except ValueError as error:
            sys.exit(f"error: {error}")
        except FailedJobError as error:
            sys.exit(f"error: sbatch refuses: {error}")
        ids = [job.job_id for job in jobs]
        state.remember(self.folder_of_points, ids, arguments[0])
        self.submission.jobs += ids
        return [Submitted() for _ in ids]


class Submitted:
    """A job as far as Hydra's sweeper is concerned: done, with nothing to return."""

    def results(self) -> list[JobReturn]:
        done = JobReturn()
        done.status = JobStatus.COMPLETED
        done.return_value = None
        return [done]
