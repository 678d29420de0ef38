"""A folder a class, split at random or by trees for training and validation."""

from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from hct_lightning.data.sources import folder as folders

folder = partial(folders.folder, valid_fraction=0.2, split_seed=0)


def test_one_tree_is_split_by_class(tmp_path, plant):
    root = plant(tmp_path, wren=10, cat=20, ant=5)
    found = folder(str(root), valid_fraction=0.2)
    assert found.classes == ("ant", "cat", "wren")
    assert Counter(found.train.labels) == {0: 4, 1: 16, 2: 8}
    assert Counter(found.valid.labels) == {0: 1, 1: 4, 2: 2}
    assert sorted(found.train.paths + found.valid.paths) == sorted(map(str, root.rglob("*.jpg")))
    assert found.notes == ()
    for split in (found.train, found.valid):
        folders = [Path(path).parent.name for path in split.paths]
        assert folders == [found.classes[label] for label in split.labels]


def test_the_split_depends_on_its_seed_alone(tmp_path, plant):
    root = plant(tmp_path, a=20, b=20)
    assert folder(str(root)) == folder(str(root))
    assert folder(str(root), split_seed=1).valid != folder(str(root)).valid


def test_one_image_more_moves_one_other_at_most(tmp_path, plant, names):
    root = plant(tmp_path, a=20, b=20)
    before = set(names(folder(str(root)).valid, root))
    for name in ("0", "10b", "9z", "new", "z"):
        file = root / "a" / f"{name}.jpeg"
        file.touch()
        after = set(names(folder(str(root)).valid, root))
        assert len((before ^ after) - {f"a/{file.name}"}) <= 1
        file.unlink()


def test_a_moved_folder_is_split_alike(tmp_path, plant, names):
    root = plant(tmp_path / "photos", a=20, b=20)
    before = names(folder(str(root)).valid, root)
    moved = root.rename(tmp_path / "Zurich")
    assert names(folder(str(moved)).valid, moved) == before


def test_every_class_validates_unless_it_has_one_image(tmp_path, plant, names):
    found = folder(str(plant(tmp_path, one=1, two=2, three=3)), valid_fraction=0.01)
    assert names(found.train, tmp_path)[0] == "one/0.jpg"
    assert Counter(found.classes[i] for i in found.train.labels) == {"one": 1, "two": 1, "three": 2}
    assert Counter(found.classes[i] for i in found.valid.labels) == {"two": 1, "three": 1}
    assert found.notes == ("one has one image: it goes to training, none validates",)
    nearly_all = folder(str(tmp_path), valid_fraction=0.99)
    assert sorted(nearly_all.train.labels) == [0, 1, 2]  # training keeps one of each


@pytest.mark.parametrize("valid", ["valid", "val", "validation", "Val"])
def test_trees_for_training_and_validation(tmp_path, valid, plant, names):
    plant(tmp_path / "train", a=2, b=1, c=1)
    plant(tmp_path / valid, b=2, a=1)
    found = folder(str(tmp_path))
    assert found.classes == ("a", "b", "c")
    assert names(found.train, tmp_path) == [f"train/{x}.jpg" for x in ("a/0", "a/1", "b/0", "c/0")]
    assert names(found.valid, tmp_path) == [f"{valid}/{x}.jpg" for x in ("a/0", "b/0", "b/1")]
    assert found.valid.labels == [0, 1, 1]
    assert found.notes == ("c has no validation image",)


@pytest.mark.parametrize(("train", "test"), [("train", "test"), ("Training", "Testing")])
def test_a_tree_for_training_is_split_where_none_validates(tmp_path, train, test, plant, names):
    plant(tmp_path / train, a=5, b=10)
    plant(tmp_path / test, b=2)
    found = folder(str(tmp_path))
    assert found.classes == ("a", "b")
    assert Counter(found.valid.labels) == {0: 1, 1: 2}
    files = sorted(map(str, (tmp_path / train).rglob("*.jpg")))
    assert sorted(found.train.paths + found.valid.paths) == files
    assert (names(found.test, tmp_path), found.test.labels) == ([f"{test}/b/0.jpg", f"{test}/b/1.jpg"], [1, 1])
    assert found.notes == (f"no folder valid beside {train}: 20 % of its images validate",)


def test_a_tree_for_training_alone_has_the_classes(tmp_path, plant):
    plant(tmp_path / "train", a=5, b=10)
    plant(tmp_path, __MACOSX=1)
    found = folder(str(tmp_path), valid_fraction=0.07)
    assert found.classes == ("a", "b")
    assert found.notes == (
        "no folder valid beside train: 7 % of its images validate",
        "passed over, for train has the classes: __MACOSX",
    )


def test_trees_for_training_validation_and_a_test(tmp_path, plant, names):
    for name in ("train", "val", "test"):
        plant(tmp_path / name, a=1, b=1)
    found = folder(str(tmp_path))
    for name, split in zip(("train", "val", "test"), found.splits.values(), strict=True):
        assert (names(split, tmp_path), split.labels) == ([f"{name}/a/0.jpg", f"{name}/b/0.jpg"], [0, 1])


@pytest.mark.parametrize("valid", [0, 1])
def test_a_test_without_classes_is_left_out(tmp_path, valid, plant):
    """As those of a competition."""
    plant(tmp_path / "train", a=2, b=2)
    plant(tmp_path, test=3)
    if valid:
        plant(tmp_path / "valid", a=1, b=1)
    found = folder(str(tmp_path))
    assert list(found.splits) == ["train", "valid"]
    assert found.notes[-1] == "test has no class folders: it is left out"


def test_a_class_may_be_called_train(tmp_path, plant):
    plant(tmp_path, car=5, train=5)
    plant(tmp_path / "train", steam=2)
    found = folder(str(tmp_path))
    assert found.classes == ("car", "train")
    assert Counter(found.train.labels + found.valid.labels) == {0: 5, 1: 7}


def test_halves_that_are_not_as_expected_are_named(tmp_path, plant):
    plant(tmp_path / "loose", train=2, test=2)
    with pytest.raises(ValueError, match=r"loose/train has no class folders; put the images of each"):
        folder(str(tmp_path / "loose"))
    plant(tmp_path / "twice" / "train", a=2)
    for name in ("val", "validation"):
        plant(tmp_path / "twice" / name, a=1)
    with pytest.raises(ValueError, match=r"twice has val, validation, which mean valid alike; leave one"):
        folder(str(tmp_path / "twice"))
    plant(tmp_path / "more" / "train", a=2)
    plant(tmp_path / "more" / "test", a=1, bee=1)
    with pytest.raises(ValueError, match=r"/test has classes that .*/train lacks: bee; add"):
        folder(str(tmp_path / "more"))


def test_what_is_not_an_image_is_passed_over(tmp_path, plant, names):
    plant(tmp_path, a=2, b=2)
    plant(tmp_path / "a", deep=1, **{".ipynb_checkpoints": 3})
    plant(tmp_path, **{".cache": 1})
    for name in ("a/notes.txt", "a/._0.jpg", "LICENSE"):
        (tmp_path / name).touch()
    (tmp_path / "b" / "UPPER.TIFF").touch()
    found = folder(str(tmp_path))
    assert sorted(names(found.train, tmp_path) + names(found.valid, tmp_path)) == [
        "a/0.jpg",
        "a/1.jpg",
        "a/deep/0.jpg",
        "b/0.jpg",
        "b/1.jpg",
        "b/UPPER.TIFF",
    ]


def test_the_photographs(photos):
    found = folder(str(photos))
    assert found.classes == ("Animal", "Building", "Mountain", "Plant")
    assert found.train.labels == [0, 1, 2, 3]
    assert found.valid.labels == [1]
    assert len(found.notes) == 3


def test_a_relative_root(tmp_path, monkeypatch, plant):
    plant(tmp_path / "pictures", a=2, b=2)
    monkeypatch.chdir(tmp_path)
    assert folder("pictures") == folder(str(tmp_path / "pictures"))


def test_a_wrong_tree_is_named(tmp_path, plant):
    with pytest.raises(ValueError, match=f"{tmp_path} has no class folders; put the images of each"):
        folder(str(tmp_path))
    plant(tmp_path, full=2, empty=0, void=0)
    (tmp_path / "void" / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"no image in empty, void \(looked for .avif.*add images or"):
        folder(str(tmp_path))
    with pytest.raises(ValueError, match=r"data\.root=.*0.jpg is a file; give a folder, .*data=csv"):
        folder(str(tmp_path / "full" / "0.jpg"))
    for fraction in (0, 1, -0.2, 20):
        with pytest.raises(ValueError, match=rf"data\.valid_fraction={fraction}: give a fraction"):
            folder(str(plant(tmp_path / f"good{fraction}", a=2, b=2)), valid_fraction=fraction)


def test_a_class_that_training_lacks_is_named(tmp_path, plant):
    plant(tmp_path / "train", a=1, b=1)
    plant(tmp_path / "valid", a=1, bee=1)
    with pytest.raises(ValueError, match=r"/valid has classes that .*/train lacks: bee; add"):
        folder(str(tmp_path))
    plant(tmp_path / "train", bee=0)
    with pytest.raises(ValueError, match=r"/train: no image in bee"):
        folder(str(tmp_path))


def test_folders_are_no_images_whatever_their_names_and_links_in_a_circle_end(plant, tmp_path, names):
    root = plant(tmp_path / "photos", a=2, b=2)
    (root / "a" / "scans.jpg").mkdir()
    (root / "a" / "scans.jpg" / "0.jpg").touch()
    (root / "a" / "back").symlink_to(root)
    (root / "b" / "lost.jpg").symlink_to("nowhere.jpg")  # an image that is to be missed, and so named
    (root / "b" / ".ipynb_checkpoints").mkdir()
    (root / "b" / ".ipynb_checkpoints" / "0.jpg").touch()
    found = folder(str(root), valid_fraction=0.4, split_seed=0)
    assert sorted(names(found.train, root) + names(found.valid, root)) == [
        "a/0.jpg", "a/1.jpg", "a/scans.jpg/0.jpg", "b/0.jpg", "b/1.jpg", "b/lost.jpg",
    ]  # fmt: skip


def test_links_to_folders_are_followed_once(plant, tmp_path, names):
    root = plant(tmp_path / "photos", a=1, b=1)
    plant(tmp_path, elsewhere=2)
    (tmp_path / "elsewhere" / "back").symlink_to(root / "a")  # in a circle, by way of another folder
    (root / "a" / "more").symlink_to(tmp_path / "elsewhere")
    (root / "a" / "same").symlink_to(tmp_path / "elsewhere")
    (root / "c").symlink_to(plant(tmp_path / "far", sub=1))
    found = folder(str(root))
    assert sorted(names(found.train, root) + names(found.valid, root)) == [
        "a/0.jpg", "a/more/0.jpg", "a/more/1.jpg", "b/0.jpg", "c/sub/0.jpg",
    ]  # fmt: skip


def test_runs_and_stores_among_the_classes_are_no_classes(tmp_path, plant):
    root = plant(tmp_path, a=5, b=5)
    before = folder(str(root))
    run = root / "outputs" / "2026-11-28" / "12-00"
    (run / ".hydra").mkdir(parents=True)
    (run / "contact_sheet.png").touch()
    (root / "store" / "train" / "a").mkdir(parents=True)
    (root / "store" / "store.json").touch()
    (root / "store" / "train" / "a" / "0.png").touch()
    assert folder(str(root)) == before
    assert len(folders.images_below(root)) == 10
    assert len(folders.images_below(run)) == 1  # what is named is meant
    (root / "empty").mkdir()
    with pytest.raises(ValueError, match="no image in empty"):
        folder(str(root))
