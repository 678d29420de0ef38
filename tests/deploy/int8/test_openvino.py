"""OpenVINO in int8. What its artifacts answer: tests/deploy/runtimes."""

import pytest
import torch

from hct_lightning.deploy.int8.layers import sqnr_db


@pytest.mark.slow
def test_the_chosen_layers_are_int8_and_the_answers_near(small, images, tmp_path):
    from hct_lightning.deploy.int8 import openvino  # NNCF takes seconds to import
    from hct_lightning.deploy.runtimes.openvino import load

    made = openvino.export(small, images[0], tmp_path, dynamic=False, calibration=images, percent=100)
    assert (made.runtime, made.precision) == ("openvino", "int8")
    assert made.int8 == {"convolutions": 2, "linears": 1}
    served = load(tmp_path / made.file, {"precision": "int8"}, 1)
    with torch.inference_mode():
        assert sqnr_db(small(images[1]), served(images[1])) > 15
