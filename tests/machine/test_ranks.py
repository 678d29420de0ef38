"""What rank 0 decides reaches every rank, however the ranks were started."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

RANK = """
import os, sys
from hct_lightning.machine.ranks import from_rank_zero

def decide():
    if sys.argv[1] == "refuse":
        raise ValueError("one image is too much")
    return {"rank": int(os.environ[sys.argv[2]])}

try:
    print(from_rank_zero("test", decide, num_nodes=2))
except ValueError as error:
    print(error)
"""


@pytest.fixture
def answers(free_port) -> Callable[..., list[str]]:
    """What each rank has, of processes that start together."""

    def start(how: str, name: str, environments: list[dict[str, str]]) -> list[str]:
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        ranks = [
            subprocess.Popen(
                [sys.executable, "-c", RANK, how, name],
                env=os.environ | meeting | environment,
                stdout=subprocess.PIPE,
                text=True,
            )
            for environment in environments
        ]
        return [rank.communicate(timeout=120)[0].strip() for rank in ranks]

    return start


def torchruns(rank: int) -> dict[str, str]:
    return {"TORCHELASTIC_RUN_ID": "none", "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}


@pytest.mark.parametrize(("how", "said"), [("decide", "{'rank': 0}"), ("refuse", "one image is too much")])
def test_ranks_that_torchrun_starts_together(answers, how, said):
    assert answers(how, "RANK", [torchruns(0), torchruns(1)]) == [said, said]


def test_nodes_that_are_started_by_hand(answers):
    assert answers("decide", "NODE_RANK", [{"NODE_RANK": "1"}, {"NODE_RANK": "0"}]) == ["{'rank': 0}"] * 2


def test_ranks_that_lightning_starts_inherit_it(answers):
    earlier = '{"decision": {"rank": 0}}'
    assert answers("refuse", "RANK", [{"LOCAL_RANK": "1", "HCT_TEST": earlier}]) == ["{'rank': 0}"]


def test_a_rank_that_nobody_told_says_so(answers):
    said = answers("decide", "RANK", [{"LOCAL_RANK": "1"}])
    assert said == ["rank 1 was started by hand; use torchrun or srun, or trainer.devices=<ranks> alone"]
