"""Which rank of a run this process is, and what all its ranks know before they meet.

Ranks are started by torchrun, by srun, or by rank 0 itself (Lightning's launcher, which leaves it to the
user to start rank 0 of each node, with `NODE_RANK`).
"""

import json
import os
import uuid
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hct_lightning.machine import slurm as job

if TYPE_CHECKING:
    from torch.distributed import Store

_ATTEMPT = "HCT_ATTEMPT"
_world = 1  # the largest that this process has known


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
        _tell("run", [str(folder.resolve()), attempt()], _meeting_point())


def follow() -> Path:
    """On the other ranks of torchrun: the folder of rank 0, whose default has the time in it. Waits for it."""
    folder, os.environ[_ATTEMPT] = _ask("run", _meeting_point())
    return Path(folder)


def from_rank_zero(name: str, decide: Callable[[], dict[str, Any]], *, num_nodes: int = 1) -> dict[str, Any]:
    """What `decide` returns on rank 0, on every rank.

    Ranks that Lightning starts inherit it in the environment, because rank 0 has decided before it starts them. Ranks
    that start together (by torchrun, by srun, or by hand, one a node) read it from the store at which they will set up
    their process group, too. Every launch has its own store, so that no earlier decision is taken for this one.

    Args:
        name: of what is decided, different from any other.
        decide: gives what JSON can hold.
        num_nodes: machines.

    Raises:
        ValueError: on every rank, when `decide` raises it on rank 0.
    """
    store = _meeting_point(num_nodes)
    said: dict[str, Any]
    if is_rank_zero():
        try:
            said = {"decision": decide()}
        except ValueError as error:
            said = {"refusal": str(error)}
        _tell(name, said, store)
    else:
        said = _ask(name, store)
    if "refusal" in said:
        raise ValueError(said["refusal"])
    return said["decision"]


def _tell(name: str, said: Any, store: "Store | None") -> None:
    os.environ[_variable(name)] = json.dumps(said)  # for ranks that this one starts
    if store:
        store.set(_key(name), json.dumps(said))


def _ask(name: str, store: "Store | None") -> Any:
    said = store.get(_key(name)).decode() if store else os.environ.get(_variable(name))
    if said is None:
        raise ValueError(f"rank {rank()} was started by hand; use torchrun or srun, or trainer.devices=<ranks> alone")
    os.environ[_variable(name)] = said  # the first rank of another node starts some, too
    return json.loads(said)


def _variable(name: str) -> str:
    return f"HCT_{name.upper()}"


def _key(name: str) -> str:
    return f"{_variable(name)}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"


def _meeting_point(num_nodes: int = 1) -> "Store | None":
    """The store of ranks that start together; None where Lightning has started this one, or is to start the others."""
    if is_under_torchrun():
        number, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    elif job.is_rank():
        from lightning.pytorch.plugins.environments import SLURMEnvironment

        srun = SLURMEnvironment()
        number, count = srun.global_rank(), srun.world_size()
        os.environ |= {"MASTER_ADDR": srun.main_address, "MASTER_PORT": str(srun.main_port)}
    elif "LOCAL_RANK" not in os.environ:  # by hand with NODE_RANK, MASTER_ADDR and MASTER_PORT, as Lightning has it
        number, count = int(os.environ.get("NODE_RANK", "0")), num_nodes
    else:
        return None
    return None if count == 1 else _connect(number, count)


@cache  # rank 0 may serve it, as long as it lives
def _connect(number: int, count: int) -> "Store":
    from torch.distributed import rendezvous

    store, _, _ = next(rendezvous(f"env://?rank={number}&world_size={count}"))
    return store
