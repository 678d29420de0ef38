from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from hct_lightning.callbacks.average_weights import AverageWeights


class Weights(Callback):
    """What trains after each step, and what is validated."""

    def __init__(self) -> None:
        self.trained: list[torch.Tensor] = []
        self.validated: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer, module, *_) -> None:
        self.trained.append(module.head.weight.detach().clone())

    def on_validation_batch_start(self, trainer, module, *_) -> None:
        self.validated.append(module.head.weight.detach().clone())


def averages(weights: list[torch.Tensor], span: float) -> list[torch.Tensor]:
    """The slow twin."""
    found = [weights[0]]
    for t, newest in enumerate(weights[1:], 2):
        share = min(1.0, 1 / (span * t))
        found.append(found[-1] * (1 - share) + newest * share)
    return found


@pytest.mark.parametrize("span", [0.3, 1.0])
def test_the_average_is_validated_and_training_goes_on_with_its_own_weights(fit, classifier, span):
    weights = Weights()
    fit(weights, AverageWeights(span=span), max_epochs=2)
    wanted = averages(weights.trained, span)
    torch.testing.assert_close(weights.validated[0], wanted[3])
    torch.testing.assert_close(weights.validated[1], wanted[7])
    torch.testing.assert_close(classifier.head.weight.detach(), wanted[7])  # what is left when training has ended
    assert not torch.equal(weights.validated[0], weights.trained[3])
    if span == 1:
        torch.testing.assert_close(weights.validated[1], torch.stack(weights.trained).mean(0))


def test_training_is_not_changed_by_it(fit, classifier):
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    plain, averaged = Weights(), Weights()
    torch.manual_seed(0)
    fit(plain)
    classifier.load_state_dict(before)
    torch.manual_seed(0)
    fit(averaged, AverageWeights(span=0.5))
    assert torch.equal(torch.stack(plain.trained), torch.stack(averaged.trained))


def test_resumed_in_the_middle_of_an_epoch_it_ends_bitwise_the_same(fit, classifier, save_after, tmp_path):
    third, seventh = tmp_path / "third.ckpt", tmp_path / "seventh.ckpt"

    def final(**options: Any) -> list[dict[str, torch.Tensor]]:
        fit(AverageWeights(span=0.5), save_after(3, third), save_after(7, seventh), max_epochs=2, **options)
        found = torch.load(seventh, weights_only=True)
        return [found["state_dict"], found["current_model_state"]]

    classifier.drop.p = 0.0
    whole, resumed = final(), final(ckpt_path=third)
    for one, other in zip(whole, resumed, strict=True):
        assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("span", [0, -1, 1.5])
def test_a_span_out_of_range_is_named(span):
    with pytest.raises(ValueError, match=f"span={span}"):
        AverageWeights(span=span)
