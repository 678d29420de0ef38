"""What rank 0 decides for all ranks, before Lightning has connected them."""

import json
import os
from collections.abc import Callable
from functools import cache
from typing import Any

from lightning.pytorch.plugins.environments import LightningEnvironment, SLURMEnvironment
from torch.distributed import Store, rendezvous

from hct_lightning.machine import slurm as job
from hct_lightning.machine.ranks import is_rank_zero


def from_rank_zero(name: str, decide: Callable[[], dict[str, Any]], *, num_nodes: int) -> dict[str, Any]:
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
    variable = f"HCT_{name.upper()}"
    key = f"{variable}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
    store = _meeting_point(num_nodes)
    if is_rank_zero():
        try:
            said = json.dumps({"decision": decide()})
        except ValueError as error:
            said = json.dumps({"refusal": str(error)})
        if store:
            store.set(key, said)
    else:
        said = store.get(key).decode() if store else os.environ[variable]
    os.environ[variable] = said
    answer = json.loads(said)
    if "refusal" in answer:
        raise ValueError(answer["refusal"])
    return answer["decision"]


@cache  # rank 0 serves it as long as it lives, and Lightning's process group uses the same
def _meeting_point(num_nodes: int) -> Store | None:
    """The store of ranks that start together; None where Lightning has started this one, or is to start the others."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    elif job.is_rank():
        srun = SLURMEnvironment()
        rank, world = srun.global_rank(), srun.world_size()
        os.environ |= {"MASTER_ADDR": srun.main_address, "MASTER_PORT": str(srun.main_port)}
    elif "LOCAL_RANK" not in os.environ:  # by hand with NODE_RANK, MASTER_ADDR and MASTER_PORT, as Lightning has it
        rank, world = LightningEnvironment().node_rank(), num_nodes
    else:
        return None
    if world == 1:
        return None
    store, _, _ = next(rendezvous(f"env://?rank={rank}&world_size={world}"))
    return store
