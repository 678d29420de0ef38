"""Folding BatchNorm changes no answer."""

import torch

from hct_lightning.deploy.int8.folding import fold_batch_norm


def test_folding_keeps_the_answers(network, images):
    folded = fold_batch_norm(network)
    before = sum(isinstance(m, torch.nn.BatchNorm2d) for m in network.modules())
    after = sum(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    assert before - after == 6
    with torch.inference_mode():
        for x in images:
            torch.testing.assert_close(folded(x), network(x), rtol=1e-4, atol=1e-4)
