import pytest
import torch
from torch import nn

from hct_lightning.training.batch_norm import measure_statistics, norms_of


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(5, 4, 3), nn.BatchNorm2d(4)
    )
    for _ in range(3):
        network(torch.randn(4, 3, 9, 9))
    return network


@pytest.fixture
def batches() -> list[torch.Tensor]:
    """Of unlike means, so that the variance between batches counts."""
    random = torch.Generator().manual_seed(1)
    return [i + torch.randn(4, 3, 9, 9, generator=random) for i in range(3)]


def test_they_are_those_of_all_images(network, batches):
    measure_statistics(network, batches)
    with torch.no_grad():  # the slow twin: every layer's inputs, those of the second normalised by batch
        first = [network[0](x) for x in batches]
        normalised = [nn.functional.batch_norm(x, None, None, network[1].weight, network[1].bias, True) for x in first]
        second = [network[4](x.relu()) for x in normalised]
    for layer, inputs in ((network[1], first), (network[5], second)):
        pixels = torch.cat(inputs).double().transpose(0, 1).flatten(1)
        torch.testing.assert_close(layer.running_mean.double(), pixels.mean(1), rtol=1e-5, atol=1e-6)
        # That of a batch is the unbiased one, as PyTorch keeps it.
        torch.testing.assert_close(layer.running_var.double(), pixels.var(1), rtol=1e-2, atol=1e-6)


def test_nothing_else_changes(network, batches):
    network.train()
    network[1].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    measure_statistics(network, batches)
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {f"{layer}.running_{key}" for layer in (1, 5) for key in ("mean", "var")}
    assert [module.training for module in network] == [True, False, True, True, True, True]
    assert [layer.momentum for layer in norms_of(network)] == [0.1, 0.1]


def test_ranks_have_what_one_process_has(network, batches):
    measure_statistics(network, batches)
    alone = {name: value.clone() for name, value in network.state_dict().items()}
    seen = []
    for rank in range(3):
        measure_statistics(network, batches[rank::3], gather=lambda mine: seen.append(mine) or mine)
    measure_statistics(network, batches[:1], gather=lambda _: torch.cat(seen))
    for name, value in network.state_dict().items():
        assert torch.equal(value, alone[name])


def test_a_network_without_batch_norm_is_left_alone():
    measure_statistics(nn.Linear(2, 2), iter(()))
