import torch

from hct_lightning.callbacks.freeze_batch_norm import FreezeBatchNorm


def test_statistics_stay_and_weights_train(fit, classifier):
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    fit(FreezeBatchNorm(), max_epochs=2)  # Lightning puts the module into train mode again after validation
    after = classifier.state_dict()
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(after[f"norm.{name}"], before[f"norm.{name}"])
    for name in ("norm.weight", "norm.bias", "head.weight"):
        assert not torch.equal(after[name], before[name])


def test_without_it_statistics_follow_the_batches(fit, classifier):
    fit()
    assert classifier.norm.num_batches_tracked == 4
