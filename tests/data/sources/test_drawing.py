"""Scenes tell their class by fine detail alone."""

import numpy as np
import pytest

from hct_lightning.data.sources.drawing import CLASSES, draw, label, motif


def test_a_scene_is_that_of_its_seed_and_index():
    scene = draw(0, 5, 128)
    assert (scene.shape, scene.dtype) == ((128, 128, 3), np.uint8)
    assert np.array_equal(draw(0, 5, 128), scene)
    assert not np.array_equal(draw(1, 5, 128), scene)
    assert not np.array_equal(draw(0, 5 + len(CLASSES), 128), scene)  # another one of the same class


def test_classes_take_turns():
    assert [CLASSES[label(i)] for i in range(5)] == ["dots", "grid", "rings", "stripes", "dots"]


@pytest.mark.parametrize("coverage", [0.28, 0.36])
def test_every_class_has_as_much_ink_and_its_own_pattern(coverage):
    drawn = [
        np.asarray(motif(kind, (200, 150), 8.0, 0.4, np.array([0.3, 0.9]), coverage, opacity=0.8), dtype=float)
        for kind in range(len(CLASSES))
    ]
    assert all(ink.shape == (150, 200) for ink in drawn)
    assert [ink.mean() / 255 for ink in drawn] == pytest.approx([0.8 * coverage] * 4, rel=0.15)
    assert [ink.max() for ink in drawn] == pytest.approx([0.8 * 255] * 4, abs=1)
    for i, ink in enumerate(drawn):
        assert all(np.abs(ink - other).mean() > 20 for other in drawn[i + 1 :])
