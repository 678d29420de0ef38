"""The baseline is the network that it stands for."""

from collections import Counter

import torch

from hct_lightning.benchmarks.baselines.plain_hct import PlainHCT
from hct_lightning.models import HCT


def test_it_has_the_parameters_of_hct_and_gives_logits():
    plain = PlainHCT()
    shapes = [Counter(tuple(p.shape) for p in network.parameters()) for network in (plain, HCT())]
    assert shapes[0] == shapes[1]
    images = torch.rand(2, 3, 160, 128)
    logits = plain.eval()(images)
    assert logits.shape == (2, 4)
    assert not torch.equal(logits[0], logits[1])
