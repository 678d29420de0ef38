"""How a run ends, and who says why."""

import os

from hct_lightning.runs.signals import Terminated


class RankError(RuntimeError):
    """What ended another rank, and with it this run."""


def has_lost_another(error: BaseException) -> bool:
    """Whether this is about the connection to another rank, which then is the cause."""
    text = f"{type(error).__name__} {error}".lower()
    return any(word in text for word in ("gloo", "nccl", "distbackend", "connection closed"))


def is_termination(error: BaseException) -> bool:
    """Whether SIGTERM is behind it: ours, or Lightning's, known by name to spare the import."""
    return isinstance(error, Terminated) or type(error).__name__ == "SIGTERMException"


def is_rank_zero() -> bool:
    """Whether this process is the first of a distributed run, or the only one."""
    names = ("RANK", "SLURM_PROCID", "NODE_RANK", "LOCAL_RANK")
    return all(os.environ.get(name, "0") == "0" for name in names)


def is_interrupt(error: BaseException) -> bool:
    """Whether Ctrl-C is behind it: Lightning turns that into exit(1)."""
    return any(isinstance(e, KeyboardInterrupt) for e in (error, error.__context__))
