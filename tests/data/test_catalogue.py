"""What every source is asked for, and gives."""

from functools import partial

import pytest

from hct_lightning.data.catalogue import Catalogue, Split, resolve_root, side_named, split_by_class
from hct_lightning.data.sources.csv import table
from hct_lightning.data.sources.folder import folder
from hct_lightning.data.sources.liu4k import liu4k

SPLIT = {"valid_fraction": 0.2, "split_seed": 0}


@pytest.mark.parametrize("source", [partial(folder, **SPLIT), liu4k, partial(table, **SPLIT)])
def test_a_root_that_is_not_there(source, tmp_path):
    for nothing in (None, ""):
        with pytest.raises(ValueError, match=r"data\.root is not set; give data\.root=<path"):
            source(nothing)
    with pytest.raises(FileNotFoundError, match=r"data\.root=.*/absent: there is no /"):
        source(str(tmp_path / "absent"))


def test_images_that_lie_elsewhere_are_refused():
    with pytest.raises(ValueError, match="only a store is read"):
        resolve_root("s3://bucket/images")


def test_what_is_known_of_images_stays_with_them():
    split = Split([f"{i}.jpg" for i in range(9)], [0, 0, 0, 1, 1, 1, 2, 2, 2], {"group": [f"g{i}" for i in range(9)]})
    found = Catalogue("table", ("a", "b", "c"), split, split, test=split).at_most(3)
    assert list(found.splits) == ["train", "valid", "test"]
    for few in found.splits.values():
        assert few.labels == [0, 1, 2]
        for i, path in enumerate(few.paths):
            assert few.tags_of(i) == {"group": f"g{path.removesuffix('.jpg')}"}


def grouped(groups: list[int]) -> Split:
    """Two classes, each with groups of these sizes."""
    names = [f"{label}{i}" for label in "ab" for i, size in enumerate(groups) for _ in range(size)]
    labels = [int(name[0] == "b") for name in names]
    return Split([f"{i}.jpg" for i in range(len(names))], labels, {"group": names})


def test_a_part_is_of_each_class_in_whole_groups():
    split = grouped([6, 1, 3, 2, 4, 5, 3])  # 24 of each class
    for fraction in (0.25, 0.5, 1.0):
        part = split.part(fraction)
        for label in (0, 1):
            assert 0.5 * fraction * 24 < part.labels.count(label) <= fraction * 24
        for name in set(part.tags["group"]):
            assert part.tags["group"].count(name) == split.tags["group"].count(name)
        assert part == split.part(fraction)
    assert split.part(1.0) == split


def test_every_class_keeps_a_group_however_small_the_part():
    assert sorted(set(grouped([9, 9]).part(0.01).labels)) == [0, 1]


def test_images_with_a_blank_group_are_groups_of_their_own():
    split = Split([f"{i}.jpg" for i in range(40)], [i % 2 for i in range(40)], {"group": ["g"] * 4 + [""] * 36})
    assert [split.part(0.25).labels.count(label) for label in (0, 1)] == [5, 5]


def test_a_part_of_images_that_know_no_groups():
    split = Split([f"{i}.jpg" for i in range(40)], [i % 2 for i in range(40)])
    assert [split.part(0.25).labels.count(label) for label in (0, 1)] == [5, 5]
    catalogue = Catalogue("table", ("a", "b"), split, split, test=split).part_of_training(0.25)
    assert [len(side) for side in catalogue.splits.values()] == [10, 40, 40]


def test_a_split_is_the_same_in_every_version_of_python_and_on_every_machine():
    files = [f"{i}.jpg" for i in range(10)] + ["\udcff.jpg"]  # a name of bytes that are no text
    train, valid, notes = split_by_class({"a": files}, 0.3, 0, str)
    assert valid == {"a": ["7.jpg", "8.jpg", "\udcff.jpg"]}
    assert (sorted(train["a"] + valid["a"]), notes) == (sorted(files), [])
    assert split_by_class({"a": files[::-1]}, 0.3, 0, str)[1] == {"a": valid["a"][::-1]}


def test_sides_have_several_names():
    assert [side_named(name) for name in ("Train", "training", "VAL", "validation", "Testing", "tests", "")] == [
        "train", "train", "valid", "valid", "test", None, None,
    ]  # fmt: skip
