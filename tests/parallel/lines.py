"""Several ranks of a line within this process."""

from concurrent.futures import ThreadPoolExecutor

import torch.distributed as dist

from hct_lightning.parallel.courier import Line


def connected(ranks: int, size: int) -> list[Line]:
    store = dist.HashStore()
    with ThreadPoolExecutor(ranks) as pool:
        return list(pool.map(lambda rank: Line(store, rank, ranks, size), range(ranks)))
