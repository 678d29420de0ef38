import pytest

from hct_lightning.machine.devices import Devices
from hct_lightning.training.resources import alone


def test_ranks_that_can_not_share_a_batch_are_named():
    devices = Devices("cpu", 2, 1, 6)
    assert alone(devices, "auto") == alone(devices, 3) == 3
    with pytest.raises(ValueError, match=r"micro_batches=2: data\.resolution=native takes images one by one, here 3"):
        alone(devices, 2)
    with pytest.raises(ValueError, match="2 ranks can't share a global batch of 5 evenly"):
        alone(devices._replace(global_batch=5), "auto")
