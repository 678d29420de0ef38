"""What is kept for the backward pass, of networks where it can be said."""

import torch
from torch import nn

from hct_lightning.benchmarks.harness.kept import kept_mib

MIB = torch.rand(512, 512)  # fp32


def test_inputs_count_once_and_weights_do_not():
    one, two = nn.Linear(512, 512), nn.Linear(512, 512)
    assert kept_mib(one, lambda: one(MIB)) == 1
    both = nn.ModuleList([one, two])
    assert kept_mib(both, lambda: one(MIB) + two(MIB)) == 1  # one storage, kept twice
    chain = nn.Sequential(one, nn.ReLU(), two)
    assert kept_mib(chain, lambda: chain(MIB)) == 2  # the first input, and what ReLU gives


def test_nothing_is_kept_without_gradients():
    network = nn.Linear(512, 512).requires_grad_(False)
    assert kept_mib(network, lambda: network(MIB)) == 0
