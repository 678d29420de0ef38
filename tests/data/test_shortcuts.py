"""What gives the class away without any detail."""

import logging
import sys

import numpy as np
import pytest

from hct_lightning.data.shortcuts import Glimpse, accuracies

RNG = np.random.default_rng(0)


def glimpse(label: int, **known) -> Glimpse:
    """Nothing of it tells the label."""
    length, noise = int(RNG.integers(1000, 2000)), RNG.integers(0, 256, (1, 32, 32), dtype=np.uint8)
    size = tuple(int(side) for side in RNG.integers(100, 200, 2))
    fields = {"size": size, "bytes": length, "suffix": ".png", "reduced": noise, "tags": {}}
    fields["counts"] = RNG.integers(1, 100, (1, 256))
    return Glimpse(label, **fields | known)


def images(count: int, **known) -> list[Glimpse]:
    """Classes in turn; `known` gives a field by the label."""
    return [glimpse(i % 2, **{name: of(i % 2) for name, of in known.items()}) for i in range(count)]


def best(train: list[Glimpse], valid: list[Glimpse]) -> dict[str, float]:
    rows = accuracies(train, valid)
    return {row["knows"]: max(value for name, value in row.items() if name != "knows") for row in rows}


@pytest.mark.parametrize(
    ("known", "tells"),
    [
        ({"size": lambda label: (100 + 50 * label, 120)}, "width and height"),
        ({"bytes": lambda label: 1000 + 900 * label}, "size and bytes of the file"),
        ({"suffix": lambda label: [".png", ".jpg"][label]}, "the same and the file's format"),
        ({"counts": lambda label: np.eye(256)[[50 + 100 * label]]}, "mean and deviation"),
        ({"reduced": lambda label: np.full((1, 32, 32), 100 + label, np.uint8)}, "reduced to 32x32"),
        ({"tags": lambda label: {"scanner": "ab"[label]}}, "the tag scanner"),
    ],
)
def test_what_goes_with_the_class_gives_it_and_nothing_else_does(known, tells):
    found = best(images(60, **known), images(60, **known))
    assert found[tells] == 1
    wider = {"width and height", "size and bytes of the file", "the same and the file's format"}
    others = set(found) - {tells} - (wider if tells in wider else set())
    assert others
    assert all(found[name] < 0.8 for name in others)


def test_who_knows_nothing_says_the_largest_class():
    valid = images(3)
    assert accuracies([*images(4), glimpse(1)], valid)[0] == {
        "knows": "nothing",
        "nearest centroid": pytest.approx(1 / 3),
        "logistic regression": pytest.approx(1 / 3),
        "random forest": pytest.approx(1 / 3),
    }


def test_images_of_a_store_have_no_file_and_books_stand_on_one_side():
    def tagged(count: int, book: str) -> list[Glimpse]:
        return images(count, bytes=lambda _: None, tags=lambda _: {"book": book})

    known = [row["knows"] for row in accuracies(tagged(8, "one"), tagged(4, "another"))]
    assert known == ["nothing", "width and height", "mean and deviation", "reduced to 32x32"]


def test_what_is_the_same_in_all_images_is_left_out():
    rows = accuracies(*(images(count, size=lambda _: (8, 8), bytes=lambda _: 9) for count in (8, 4)))
    assert [row["knows"] for row in rows] == ["nothing", "mean and deviation", "reduced to 32x32"]


def test_one_class_can_not_be_told_apart():
    assert accuracies([glimpse(0)] * 4, [glimpse(0)]) == []


def test_it_says_what_it_takes(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    with caplog.at_level(logging.INFO):
        assert accuracies(images(4), images(4)) == []
    assert "pip install 'hct-lightning[data]'" in caplog.text
