"""TorchScript takes any batch, and any size where it is left open."""

import pytest
import torch

from hct_lightning.deploy import load_artifact


def images(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


@pytest.mark.parametrize("shape", [(1, 3, 128, 128), (2, 3, 192, 256), (3, 3, 333, 259)])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_same_probabilities_as_eager_at_other_sizes_and_batches(network, open_folder, shape, memory):
    x = images(*shape).contiguous(memory_format=memory)
    with torch.inference_mode():
        expected = network(x).softmax(dim=1)
    torch.testing.assert_close(load_artifact(open_folder)(x), expected, rtol=0, atol=1e-5)
