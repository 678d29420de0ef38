"""How processes are told to end: by SIGTERM, and by the end of their parent."""

import ctypes
import os
import signal
import sys
import threading
from types import FrameType

STATUS = 128 + signal.SIGTERM  # the exit status that shells give it


class Terminated(BaseException):
    """SIGTERM has come. Not an Exception: nothing should catch it and go on."""

    def __init__(self) -> None:
        super().__init__("SIGTERM")


def raise_when_terminated() -> None:
    """From here on SIGTERM raises `Terminated` in the main thread, so that a run can record it."""

    def handler(number: int, frame: FrameType | None) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, handler)


def end_with_parent() -> None:
    """Linux: kills this process when the one that started it ends, however that ends.

    A rank that waits for the others in a collective would otherwise outlive a first rank that was
    killed, for up to half an hour.
    """
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def heed_the_parent_alone() -> None:
    """In a loader's worker: ignores a SIGTERM that isn't the parent's.

    Slurm and others signal every process of a job at once. The rank saves a checkpoint then, for
    which its workers must not be gone.
    """
    if not hasattr(signal, "sigwaitinfo"):
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def listen() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
            pass
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()


def in_words(status: int) -> str:
    """What a process's return code says of its end."""
    if status >= 0:
        return f"it ended with status {status}; its own error is above"
    name = signal.Signals(-status).name
    hint = "; was the machine short of memory?" if name == "SIGKILL" else ""
    return f"it was ended by {name}{hint}"
