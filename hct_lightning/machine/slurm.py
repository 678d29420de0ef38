"""What a rank knows of the Slurm job that it is part of."""

import os
import subprocess
from typing import Any


def inside() -> bool:
    """Whether this process runs in a Slurm job."""
    return "SLURM_JOB_ID" in os.environ


def is_rank() -> bool:
    """Whether `srun` started this process, as one rank of a job or as its only one."""
    # As Lightning has it: these are the names of shells on a node.
    shell = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    return "SLURM_STEP_ID" in os.environ and "SLURM_NTASKS" in os.environ and not shell


def tasks_without_srun() -> int:
    """Tasks of the batch job whose script started this process itself; 0 elsewhere."""
    if is_rank() or os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive"):
        return 0
    return int(os.environ.get("SLURM_NTASKS", "0"))


def job_id() -> str:
    """The job's id as users write it: 123, or 123_4 for a point of an array."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


def is_submitted() -> bool:
    """Whether this process is a rank of what `+slurm=...` submitted."""
    return os.environ.get("SUBMITIT_EXECUTOR") == "slurm"


def goes_on() -> bool:
    """Whether what a run's folder holds is this run's own, from before a restart or a resubmission."""
    return restarts() > 0 or is_submitted()


def restarts() -> int:
    """How often Slurm has started this job again, after pre-emption say; 0 outside of Slurm."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def description() -> dict[str, Any] | None:
    """What `run.json` says of the job; None outside of Slurm."""
    if not inside():
        return None
    return {
        "job": job_id(),
        "nodes": os.environ.get("SLURM_JOB_NODELIST"),
        "tasks": int(os.environ.get("SLURM_NTASKS", "1")),
        "restarts": restarts(),
    }


def is_preempted() -> bool:
    """Whether Slurm takes the job's nodes away, rather than someone cancelling it.

    Raises:
        OSError: when there is no scontrol to ask.
    """
    shown = _scontrol("--oneliner", "show", "job", os.environ["SLURM_JOB_ID"])
    fields = dict(word.split("=", 1) for word in shown.stdout.split() if "=" in word)
    return fields.get("PreemptTime", "None") not in ("None", "N/A", "Unknown")


def requeue() -> None:
    """Puts this job back into the queue, which ends this process soon.

    Raises:
        OSError: when Slurm refuses, with its reason, or there is no scontrol to ask.
    """
    asked = _scontrol("requeue", job_id())
    if asked.returncode:
        raise OSError(f"Slurm refuses: {asked.stderr.strip()}")


def _scontrol(*arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["scontrol", *arguments], capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        raise FileNotFoundError(
            "there is no scontrol here; in a container, bind Slurm's client programs and munge's socket into it, "
            "or submit the run again"
        ) from None
