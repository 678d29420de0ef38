"""Muon against timm's, against singular values, and through a checkpoint."""

import copy

import pytest
import timm.optim
import torch

from hct_lightning.models import HCT
from hct_lightning.training.muon import Muon, is_matrix, orthogonal


def with_gradients(seed: int) -> HCT:
    torch.manual_seed(seed)
    network = HCT(in_chans=3, num_classes=5).to(memory_format=torch.channels_last)
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter)
    return network


def test_a_step_is_that_of_timm():
    """Which computes in bf16, as far as that goes."""
    before = with_gradients(0)
    ours, theirs = copy.deepcopy(before), copy.deepcopy(before)
    for network, kind in ((ours, Muon), (theirs, timm.optim.Muon)):
        for parameter, same in zip(network.parameters(), before.parameters(), strict=True):
            parameter.grad = same.grad.clone()
        optimizer = kind(network.parameters(), lr=0.01, weight_decay=0.1)
        for _ in range(2):
            optimizer.step()
    kinds = set()
    for mine, other, old in zip(ours.parameters(), theirs.parameters(), before.parameters(), strict=True):
        kinds.add(is_matrix(mine))
        assert (mine - other).norm() < (0.05 if is_matrix(mine) else 1e-3) * (other - old).norm()
    assert kinds == {True, False}


@pytest.mark.parametrize("shape", [(2, 64, 576), (1, 128, 64), (3, 5, 256)])
def test_singular_values_become_one(shape):
    torch.manual_seed(0)
    left, sizes, right = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    sizes = torch.logspace(0, -2, sizes.shape[1]).expand_as(sizes)
    after = orthogonal(left * sizes[:, None] @ right)
    values = left.mT @ after @ right.mT
    diagonal = values.diagonal(dim1=1, dim2=2)
    assert 0.7 < diagonal.min() < diagonal.max() < 1.2
    assert (values - torch.diag_embed(diagonal)).abs().max() < 1e-3, "its directions stay"


@pytest.mark.parametrize("shape", [(1, 256, 2304), (1, 64, 16)])
def test_few_directions_stay_few(shape):
    """Batches of few images give gradients of low rank: nothing may come of the rest, and nothing may grow."""
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonal(torch.randn(1, shape[1], 3) @ torch.randn(1, 3, shape[2])))[0]
    assert values[:3].min() > 0.7
    assert values[3:].max() < 1e-2
    assert not orthogonal(torch.zeros(shape)).any()


def test_depthwise_kernels_are_no_matrices():
    assert not is_matrix(torch.nn.Conv2d(8, 8, 3, groups=8).weight)
    assert not is_matrix(torch.zeros(8))
    assert is_matrix(torch.zeros(8, 4))


def test_it_goes_on_bitwise_from_its_state():
    whole = with_gradients(1)
    optimizer = Muon(whole.parameters())
    for _ in range(2):
        optimizer.step()
    resumed, state = copy.deepcopy(whole), copy.deepcopy(optimizer.state_dict())
    for parameter, other in zip(resumed.parameters(), whole.parameters(), strict=True):
        parameter.grad = other.grad.clone()
    other = Muon(resumed.parameters())
    other.load_state_dict(state)
    optimizer.step()
    other.step()
    assert all(torch.equal(*pair) for pair in zip(whole.parameters(), resumed.parameters(), strict=True))


@pytest.mark.parametrize("option", [{"lr": -1.0}, {"weight_decay": -1.0}, {"momentum": 1.0}, {"betas": (0.9, 1.5)}])
def test_options_out_of_range_are_refused(option):
    (name,) = option
    with pytest.raises(ValueError, match=rf"optim\.optimizer\.{name}="):
        Muon([torch.nn.Parameter(torch.zeros(2))], **option)
