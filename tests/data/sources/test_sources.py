import multiprocessing
import os
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from hct_lightning.data.catalogue import Catalogue, Split
from hct_lightning.data.reading.image import is_image
from hct_lightning.data.sources import csv
from hct_lightning.data.sources import folder as folders
from hct_lightning.data.sources.liu4k import liu4k
from hct_lightning.data.sources.scenes import scenes

folder = partial(folders.folder, valid_fraction=0.2, split_seed=0)
table = partial(csv.table, valid_fraction=0.2, split_seed=0)


def plant(root: Path, **counts: int) -> Path:
    """A folder a class with so many files; sources look at names alone."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            (root / name / f"{i}.jpg").touch()
    return root


def names(split: Split, root: Path) -> list[str]:
    return [Path(path).relative_to(root).as_posix() for path in split.paths]


def write_csv(root: Path, text: str, **images: int) -> Path:
    """data.csv beside images a0.png, a1.png, ... for `a=2`."""
    for name, count in images.items():
        for i in range(count):
            (root / f"{name}{i}.png").touch()
    file = root / "data.csv"
    file.write_bytes(text.encode())
    return file


# A folder a class


def test_one_tree_is_split_by_class(tmp_path):
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


def test_the_split_depends_on_its_seed_alone(tmp_path):
    root = plant(tmp_path, a=20, b=20)
    assert folder(str(root)) == folder(str(root))
    assert folder(str(root), split_seed=1).valid != folder(str(root)).valid


def test_every_class_validates_unless_it_has_one_image(tmp_path):
    found = folder(str(plant(tmp_path, one=1, two=2, three=3)), valid_fraction=0.01)
    assert names(found.train, tmp_path)[0] == "one/0.jpg"
    assert Counter(found.classes[i] for i in found.train.labels) == {"one": 1, "two": 1, "three": 2}
    assert Counter(found.classes[i] for i in found.valid.labels) == {"two": 1, "three": 1}
    assert found.notes == ("one has one image: it goes to training, none validates",)
    nearly_all = folder(str(tmp_path), valid_fraction=0.99)
    assert sorted(nearly_all.train.labels) == [0, 1, 2]  # training keeps one of each


@pytest.mark.parametrize("valid", ["valid", "val"])
def test_trees_for_training_and_validation(tmp_path, valid):
    plant(tmp_path / "train", a=2, b=1, c=1)
    plant(tmp_path / valid, b=2, a=1)
    found = folder(str(tmp_path))
    assert found.classes == ("a", "b", "c")
    assert names(found.train, tmp_path) == [f"train/{x}.jpg" for x in ("a/0", "a/1", "b/0", "c/0")]
    assert names(found.valid, tmp_path) == [f"{valid}/{x}.jpg" for x in ("a/0", "b/0", "b/1")]
    assert found.valid.labels == [0, 1, 1]
    assert found.notes == ("c has no validation image",)


def test_what_is_not_an_image_is_passed_over(tmp_path):
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


def test_a_relative_root(tmp_path, monkeypatch):
    plant(tmp_path / "pictures", a=2, b=2)
    monkeypatch.chdir(tmp_path)
    assert folder("pictures") == folder(str(tmp_path / "pictures"))


@pytest.mark.parametrize("source", [folder, liu4k, table])
def test_a_root_that_is_not_there(source, tmp_path):
    for nothing in (None, ""):
        with pytest.raises(ValueError, match=r"data\.root is not set; give data\.root=<path"):
            source(nothing)
    with pytest.raises(FileNotFoundError, match=r"data\.root=.*/absent: there is no /"):
        source(str(tmp_path / "absent"))


def test_a_wrong_tree_is_named(tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path} has no class folders; put the images of each"):
        folder(str(tmp_path))
    plant(tmp_path, full=2, empty=0, void=0)
    (tmp_path / "void" / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"no image in empty, void \(looked for .bmp.*add images or"):
        folder(str(tmp_path))
    with pytest.raises(ValueError, match=r"data\.root=.*0.jpg is a file; give a folder, .*data=csv"):
        folder(str(tmp_path / "full" / "0.jpg"))
    for fraction in (0, 1, -0.2, 20):
        with pytest.raises(ValueError, match=rf"data\.valid_fraction={fraction}: give a fraction"):
            folder(str(plant(tmp_path / f"good{fraction}", a=2, b=2)), valid_fraction=fraction)


def test_a_class_that_training_lacks_is_named(tmp_path):
    plant(tmp_path / "train", a=1, b=1)
    plant(tmp_path / "valid", a=1, bee=1)
    with pytest.raises(ValueError, match=r"/valid has classes that .*/train lacks: bee; add"):
        folder(str(tmp_path))
    plant(tmp_path / "train", bee=0)
    with pytest.raises(ValueError, match=r"/train: no image in bee"):
        folder(str(tmp_path))


def test_liu4k(tmp_path):
    for name in ("train", "valid"):
        plant(tmp_path / name, Animal=2, Street=1)
    found = liu4k(str(tmp_path))
    assert found.source == f"LIU4K {tmp_path}"
    assert found.classes == ("Animal", "Street")
    assert found.train.labels == found.valid.labels == [0, 0, 1]
    (tmp_path / "valid").rename(tmp_path / "val")
    with pytest.raises(ValueError, match=r"there is no .*/valid; LIU4K is expected as train/<class>/"):
        liu4k(str(tmp_path))


# A CSV file


def test_csv_with_a_split(tmp_path):
    elsewhere = tmp_path / "elsewhere.png"
    elsewhere.touch()
    (tmp_path / "sub").mkdir()
    rows = f"""path,label,split,note
a0.png,cat,train,"first, quoted"
"a,1.png",dog,TRAIN,
sub/../a2.png,cat,valid,x
 {elsewhere} , dog ,val,x,surplus
"""
    file = write_csv(tmp_path, "\ufeff" + rows.replace("\n", "\r\n"), a=3)  # as Excel writes it
    (tmp_path / "a1.png").rename(tmp_path / "a,1.png")
    found = table(str(file))
    assert found == Catalogue(
        f"table {file}",
        ("cat", "dog"),
        Split([str(tmp_path / "a0.png"), str(tmp_path / "a,1.png")], [0, 1]),
        Split([str(tmp_path / "a2.png"), str(elsewhere)], [0, 1]),
    )


def test_csv_without_a_split_is_split_by_label(tmp_path):
    rows = [f"{name}{i}.png,{name}" for name, count in (("a", 20), ("b", 10), ("c", 1)) for i in range(count)]
    file = write_csv(tmp_path, "path,label\n" + "\n".join(rows), a=20, b=10, c=1)
    found = table(str(file))
    assert Counter(found.train.labels) == {0: 16, 1: 8, 2: 1}
    assert Counter(found.valid.labels) == {0: 4, 1: 2}
    assert any("c has one image" in note for note in found.notes)
    assert table(str(file)) == found
    assert table(str(file), split_seed=1).valid != found.valid
    assert len(table(str(file), valid_fraction=0.5).valid) == 15


@pytest.mark.parametrize("seed", range(5))
def test_a_group_is_never_on_both_sides(tmp_path, seed):
    # Patients of one to three images, and three images without a patient.
    patients = {f"{label}{i}.png": (label, f"p{label}{i * i // 9}") for label in "ab" for i in range(18)}
    rows = [f"{path},{label},{group}" for path, (label, group) in patients.items()]
    rows += [f"c{i}.png,a," for i in range(3)]
    file = write_csv(tmp_path, "\n".join(["path,label,group", *rows]), a=18, b=18, c=3)
    found = table(str(file), split_seed=seed)
    sides = [
        {patients.get(name, ("", name))[1] for name in names(split, tmp_path)} for split in (found.train, found.valid)
    ]
    assert sides[0].isdisjoint(sides[1])
    assert len(found.train) + len(found.valid) == 39
    assert set(found.valid.labels) == set(found.train.labels) == {0, 1}


def test_images_without_a_group_are_split_one_by_one(tmp_path):
    rows = [f"{name}{i}.png,{name}," for name in "ab" for i in range(10)]
    file = write_csv(tmp_path, "\n".join(["path,label,group", *rows]), a=10, b=10)
    assert Counter(table(str(file)).valid.labels) == {0: 2, 1: 2}


GOOD = "a0.png,cat,train\na1.png,dog,train\na2.png,cat,valid\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\n", r"data\.csv lacks the column path; it has \['file', 'label'\]"),
        ("path;label\na0.png;cat\n", r"lacks the column label and path; .* separated by commas"),
        ("", r"lacks the column label and path; it has \[\]"),
        ("path,label\n", r"data\.csv has no rows"),
        ("path,label\na0.png,cat\n,dog\n", r"data\.csv, line 3: path or label is empty"),
        ("path,label\na0.png\n", r"data\.csv, line 2: path or label is empty"),
        ('path,label\n\n"a0.png","cat\ndog"\n\na1.png,\n', r"line 6: path or label is empty"),
        ("path,label,split\n" + GOOD + "a0.png,cat,test\n", r"line 5: split='test'; use train or valid"),
        ("path,label,split\na0.png,cat,\n", r"line 2: split=''; use train or valid"),
        ("path,label,split\n" + GOOD + "a1.png,cow,valid\n", r"no training image of cow; add some"),
        (
            "path,label,split,group\na0.png,cat,train,p1\na1.png,dog,train,p2\na2.png,cat,valid,p1\n",
            r"groups on both sides of the split: p1; give each group one split",
        ),
    ],
)
def test_a_wrong_csv_is_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        table(str(write_csv(tmp_path, text, a=3)))


def test_absent_files_of_a_csv_are_named(tmp_path):
    rows = [f"x{i}.png,cat" for i in range(9)]
    with pytest.raises(FileNotFoundError, match=r"names 9 files .*/x0\.png, .*/x4\.png and 4 more; relative"):
        table(str(write_csv(tmp_path, "\n".join(["path,label", *rows]))))


def test_what_is_not_a_csv_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"is a folder; give the CSV file, or use data=folder"):
        table(str(tmp_path))
    Image.new("L", (9, 9)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png is not a CSV file in UTF-8"):
        table(str(tmp_path / "a.png"))


# Scenes


def draw(root: Path, **options) -> Catalogue:
    return scenes(str(root), **({"scene_size": 128, "scene_seed": 0, "train": 6, "valid": 4} | options))


def contents(found: Catalogue) -> list[bytes]:
    return [Path(path).read_bytes() for path in found.train.paths + found.valid.paths]


def test_scenes_are_drawn_alike_everywhere(tmp_path):
    one, two = draw(tmp_path / "one"), draw(tmp_path / "two")
    assert len(one.train) == 6
    assert len(one.valid) == 4
    assert set(one.valid.labels) == set(range(len(one.classes)))
    assert list(one.classes) == sorted(one.classes)
    assert contents(one) == contents(two)
    assert len(set(contents(one))) == 10  # no two alike, no image on both sides
    with Image.open(one.train.paths[0]) as image:
        assert (image.size, image.mode) == ((128, 128), "RGB")
    for path, label in zip(one.train.paths, one.train.labels, strict=True):
        assert Path(path).parent.name == one.classes[label]


def test_scenes_are_kept(tmp_path):
    first = draw(tmp_path)
    written = {path: os.stat(path).st_mtime_ns for path in first.train.paths + first.valid.paths}
    assert draw(tmp_path) == first
    assert {path: os.stat(path).st_mtime_ns for path in written} == written
    # More of them, or another seed, leave those as they are and draw the rest alone.
    more = draw(tmp_path, train=9)
    assert more.train.paths[:6] == first.train.paths
    assert not set(draw(tmp_path, scene_seed=1).train.paths) & set(more.train.paths)
    assert {path: os.stat(path).st_mtime_ns for path in written} == written
    lost = Path(first.train.paths[2])
    before = lost.read_bytes()
    lost.unlink()
    draw(tmp_path)
    assert lost.read_bytes() == before


def test_a_killed_drawing_leaves_no_half_image(tmp_path):
    options = {"scene_size": 512, "valid": 0}
    run = multiprocessing.get_context("fork").Process(target=draw, args=(tmp_path,), kwargs=options | {"train": 2000})
    run.start()
    seen, deadline = set(), time.monotonic() + 60
    while len(seen) < 16 and time.monotonic() < deadline:
        for path in set(filter(is_image, tmp_path.rglob("*"))) - seen:
            with Image.open(path) as image:
                image.load()  # whole from the moment that it has its name
            seen.add(path)
    run.kill()
    run.join()
    assert 16 <= len(seen) < 2000
    # Its workers end with it: the next run isn't kept waiting, and draws what is missing.
    found = draw(tmp_path, train=24, **options)
    assert contents(found) == contents(draw(tmp_path / "whole", train=24, **options))


def test_processes_that_draw_at_once_wait_for_each_other(tmp_path):
    ranks = [multiprocessing.get_context("fork").Process(target=draw, args=(tmp_path / "shared",)) for _ in range(3)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
        assert rank.exitcode == 0
    assert contents(draw(tmp_path / "shared")) == contents(draw(tmp_path / "alone"))


def test_scenes_too_small_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"data\.scene_size=64: scenes are drawn at 128 pixels or more"):
        draw(tmp_path, scene_size=64)
