"""Two distant squares decide, and only together."""

from collections import Counter

import numpy as np
import pytest
import torch

from hct_lightning.data.sources.needles import PLACE
from hct_lightning.data.sources.pairs import CLASSES, ROOM, draw, pairs
from hct_lightning.models import HCT

SIZE = 2048


def along(end: np.ndarray) -> bool:
    """Whether the bright square of an end has its stripes side by side."""
    rows, columns = ((end > 120).sum(axis=axis).nonzero()[0] for axis in (1, 0))
    square = end[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(int)
    assert abs(np.array(square.shape) - PLACE).max() <= 2
    return np.abs(np.diff(square, axis=0)).mean() < np.abs(np.diff(square, axis=1)).mean()


def test_the_class_is_whether_the_ends_are_alike():
    seen = Counter()
    for index in range(64):
        image = draw(0, index, SIZE)
        assert image.shape == (SIZE // 8, SIZE)
        left, right = along(image[:, : SIZE // 2]), along(image[:, SIZE // 2 :])
        assert (left == right) == (CLASSES[index % 2] == "same")
        seen[left, right] += 1
    assert min(seen.values()) >= 8, "each end alone says nothing"


def test_no_position_of_the_twin_sees_both_ends():
    """The gradient of a position of its last map, in an image that is wide enough, is zero farther away."""
    twin = HCT(in_chans=1, conv_stages=5).eval()
    image = torch.rand(1, 1, 256, 2 * SIZE, requires_grad=True)
    middle = twin.forward_features(image)[..., SIZE // 128]
    middle.sum().backward()
    assert image.grad is not None
    reached = image.grad.abs().sum(dim=(0, 1, 2)).nonzero().flatten()
    apart = SIZE - 2 * (SIZE // ROOM + PLACE)
    assert 0 < reached[-1] - reached[0] < apart


def test_drawn_once(tmp_path):
    found = pairs(str(tmp_path), scene_size=1024, scene_seed=0, train=4, valid=2)
    assert found.classes == CLASSES
    assert found.train.labels == [0, 1, 0, 1]
    with pytest.raises(ValueError, match="pairs are drawn at 1024 pixels or more"):
        pairs(str(tmp_path), scene_size=1000, scene_seed=0, train=4, valid=2)
