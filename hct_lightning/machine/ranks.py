"""Which rank of a run this process is, and what all its ranks know before they meet.

Ranks are started by torchrun, by srun, or by rank 0 itself (Lightning's launcher, which leaves it to the
user to start rank 0 of each node, with `NODE_RANK`).
"""

import json
import os
import uuid
from pathlib import Path

from hct_lightning.machine import slurm as job

_ATTEMPT = "HCT_ATTEMPT"
_world = 1  # the largest that this process has known
_store = None  # of torchrun; kept, for where the agent does not serve it rank 0 does


def is_rank_zero() -> bool:
    """Whether this process is the first of a distributed run, or the only one."""
    names = ("RANK", "SLURM_PROCID", "NODE_RANK", "LOCAL_RANK")
    return all(os.environ.get(name, "0") == "0" for name in names)


def rank() -> str:
    """This rank's number; node.number where ranks are started on each node by hand."""
    if "RANK" in os.environ:
        return os.environ["RANK"]
    if job.is_rank():
        return os.environ["SLURM_PROCID"]
    node, local = os.environ.get("NODE_RANK", "0"), os.environ.get("LOCAL_RANK", "0")
    return local if node == "0" else f"{node}.{local}"


def world() -> int:
    """The number of ranks; 1 as long as rank 0 has not started the others."""
    global _world
    tasks = os.environ["SLURM_NTASKS"] if job.is_rank() else "1"
    # Lightning takes the variable away when fitting ends, also where another rank has ended it.
    _world = max(_world, int(os.environ.get("WORLD_SIZE", tasks)))
    return _world


def is_under_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def is_child() -> bool:
    """Whether the first rank of this node started this one."""
    return os.environ.get("LOCAL_RANK", "0") != "0" and not is_under_torchrun() and not job.is_rank()


def attempt() -> str:
    """What distinguishes this start of the ranks from all others; the same on every rank."""
    if job.is_rank() and not is_under_torchrun():
        return f"{job.job_id()}.{os.environ['SLURM_STEP_ID']}.{job.restarts()}"
    return os.environ.setdefault(_ATTEMPT, uuid.uuid4().hex[:8])


def lead(folder: Path) -> None:
    """On rank 0: begins an attempt, and under torchrun tells the others the run's folder."""
    os.environ[_ATTEMPT] = uuid.uuid4().hex[:8]  # ranks that are started later inherit it
    if is_under_torchrun() and world() > 1:
        _torchruns_store().set(_key(), json.dumps([str(folder.resolve()), attempt()]))


def follow() -> Path:
    """On the other ranks of torchrun: the folder of rank 0, whose default has the time in it. Waits for it."""
    folder, os.environ[_ATTEMPT] = json.loads(_torchruns_store().get(_key()))
    return Path(folder)


def _key() -> str:
    return f"hct_lightning/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"


def _torchruns_store():
    """The store in which the process group will meet, too."""
    global _store
    from torch.distributed.rendezvous import rendezvous

    _store, _, _ = next(rendezvous("env://"))
    return _store
