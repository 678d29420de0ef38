"""Weights of classes: a mean of 1 over the images, whatever is asked for."""

import pytest

from hct_lightning.training.class_weights import class_weights


def test_balanced_weighs_every_class_alike():
    weights = class_weights("balanced", [10, 30])
    assert weights == pytest.approx([2.0, 2 / 3])
    assert 10 * weights[0] == pytest.approx(30 * weights[1])


def test_given_ones_keep_their_proportions_with_a_mean_of_one():
    assert class_weights([1, 3], [30, 10]) == pytest.approx([2 / 3, 2.0])
    assert class_weights(None, [30, 10]) is None
    assert class_weights("balanced", [4, 0, 4]) == pytest.approx([1.0, 0.0, 1.0])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ([1], "1 weights for 2 classes"),
        ([-1, 1], "at least 0, not all 0"),
        ([0, 0], "at least 0, not all 0"),
        (5, "loss.class_weights=5: give balanced, or a list"),
        ([1, None], r"loss.class_weights=\[1, None\]: give balanced, or a list"),
        ("equal", "loss.class_weights=equal: give balanced, or a list"),
    ],
)
def test_refuses(option, message):
    with pytest.raises(ValueError, match=message):
        class_weights(option, [3, 4])
