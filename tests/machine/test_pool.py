"""Pools of processes: results in order, and an end when they are interrupted."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from hct_lightning.machine.pool import mapped

PROGRAM = """
import time
from hct_lightning.machine.pool import mapped
print("go", flush=True)
with mapped(time.sleep, [0.02] * 3000, 2) as done:
    list(done)
"""


def test_results_come_in_order():
    with mapped(abs, [-3, 2, -1], 2) as results:
        assert list(results) == [3, 2, 1]


@pytest.mark.parametrize("seed", range(6))
def test_ctrl_c_pressed_twice_ends_it_at_any_moment(seed):
    rng = random.Random(seed)
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert child.stdout.readline() == "go\n"
    time.sleep(rng.uniform(0, 0.4))
    os.killpg(child.pid, signal.SIGINT)
    time.sleep(rng.uniform(0, 0.02))
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=20)
    assert child.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in err


def blas_threads(_: int) -> list[int]:
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def test_workers_have_a_thread_each():
    with threadpool_limits(2, "blas"):  # of this process, from which workers are forked
        assert blas_threads(0) == [2] * len(blas_threads(0)) != []
        with mapped(blas_threads, [0, 1], 2) as results:
            for counts in results:
                assert counts == [1] * len(counts) != []
