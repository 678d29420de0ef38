"""How processes are told to end: by SIGTERM, and by the end of their parent."""

import ctypes
import os
import signal
import sys
from types import FrameType

STATUS = 128 + signal.SIGTERM  # the exit status that shells give it


class Terminated(BaseException):
    """SIGTERM has come. Not an Exception: nothing should catch it and go on."""

    def __init__(self, why: str = "SIGTERM") -> None:
        super().__init__(why)


class Preempted(Terminated):
    """Slurm gives notice: the time is up soon, or the nodes go to someone else."""

    def __init__(self) -> None:
        super().__init__("Slurm gives notice")


def slurm_notices() -> set[signal.Signals]:
    """The signals by which Slurm gives notice: submitit asks for USR2, Lightning's users for USR1."""
    return {signal.SIGUSR1, signal.SIGUSR2} if "SLURM_JOB_ID" in os.environ else set()


def raise_when_terminated() -> None:
    """From here on a signal to end raises `Terminated` or `Preempted` in the main thread.

    So a run can record it. Handlers of submitit and Lightning for the same signals are replaced:
    they requeue a job without a checkpoint, or wait in a collective for ever.
    """

    def handler(number: int, frame: FrameType | None) -> None:
        raise Terminated if number == signal.SIGTERM else Preempted

    for number in (signal.SIGTERM, *slurm_notices()):
        signal.signal(number, handler)


def end_with_parent() -> None:
    """Linux: kills this process when the one that started it ends, however that ends.

    A rank that waits for the others in a collective would otherwise outlive a first rank that was
    killed, for up to half an hour.
    """
    _on_end_of_parent(signal.SIGKILL)


def outlive_parent() -> None:
    """Undoes `end_with_parent`."""
    _on_end_of_parent(0)


def _on_end_of_parent(number: int) -> None:
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, number)


def in_words(status: int) -> str:
    """What a process's return code says of its end."""
    if status >= 0:
        return f"it ended with status {status}; its own error is above"
    name = signal.Signals(-status).name
    hint = "; was the machine short of memory?" if name == "SIGKILL" else ""
    return f"it was ended by {name}{hint}"
