"""A prediction, held to a process that takes the step."""

import pytest

from hct_lightning.benchmarks.memory_grid import benchmark


@pytest.mark.slow
@pytest.mark.parametrize(("network", "memory"), [("hct", "low"), ("mobilenetv4_conv_small", "speed")])
def test_the_memory_of_a_step_is_as_predicted(network, memory):
    found = benchmark(
        networks=[network],
        resolutions=[512],
        batch_sizes=[4],
        precisions=["32-true"],
        memories=[memory],
        points=1,
        largest_gib=1,
        seed=0,
    )
    assert found["ratios"]["worst"] < 0.1
