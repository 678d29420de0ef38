"""A CSV file names images, labels, splits and groups."""

from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from hct_lightning.data.catalogue import Catalogue, Split
from hct_lightning.data.sources import csv

table = partial(csv.table, valid_fraction=0.2, split_seed=0)


def write_csv(root: Path, text: str, **images: int) -> Path:
    """data.csv beside images a0.png, a1.png, ... for `a=2`."""
    for name, count in images.items():
        for i in range(count):
            (root / f"{name}{i}.png").touch()
    file = root / "data.csv"
    file.write_bytes(text.encode())
    return file


def test_csv_with_a_split(tmp_path):
    elsewhere = tmp_path / "elsewhere.png"
    elsewhere.touch()
    (tmp_path / "sub").mkdir()
    rows = f"""path,label,split,note
a0.png,cat,train,"first, quoted"
"a,1.png",dog,TRAIN,
sub/../a2.png,cat,valid,x
 {elsewhere} , dog ,val,x,
"""
    file = write_csv(tmp_path, "\ufeff" + rows.replace("\n", "\r\n"), a=3)  # as Excel writes it
    (tmp_path / "a1.png").rename(tmp_path / "a,1.png")
    found = table(str(file))
    assert found == Catalogue(
        f"table {file}",
        ("cat", "dog"),
        Split([str(tmp_path / "a0.png"), str(tmp_path / "a,1.png")], [0, 1], {"note": ["first, quoted", ""]}),
        Split([str(tmp_path / "a2.png"), str(elsewhere)], [0, 1], {"note": ["x", "x"]}),
    )


def test_csv_with_a_test_split(tmp_path):
    rows = "path,group,split,label\na0.png,p1,train,dog\na1.png,p2,valid,dog\na2.png,p3,test,dog\na3.png,,train,cat\n"
    found = table(str(write_csv(tmp_path, rows, a=4)))
    assert found.train == Split([str(tmp_path / "a3.png"), str(tmp_path / "a0.png")], [0, 1], {"group": ["", "p1"]})
    assert found.test == Split([str(tmp_path / "a2.png")], [1], {"group": ["p3"]})
    assert found.notes == ("no image validates: cat",)


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
def test_a_group_is_never_on_both_sides(tmp_path, seed, names):
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


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("column", ["", ",group"])
def test_an_image_in_several_rows_is_never_on_both_sides(tmp_path, seed, column):
    rows = [f"{path},a" + "," * len(column[:1]) for i in range(9) for path in (f"a{i}.png", f"./a{i}.png", f"b{i}.png")]
    for i in range(9):
        (tmp_path / f"b{i}.png").symlink_to(f"a{i}.png")
    found = table(str(write_csv(tmp_path, "\n".join([f"path,label{column}", *rows]), a=9)), split_seed=seed)
    assert set(found.train.paths).isdisjoint(found.valid.paths)
    assert Counter(found.train.paths + found.valid.paths) == {str(tmp_path / f"a{i}.png"): 3 for i in range(9)}


def side_of_each(found: Catalogue, root: Path) -> dict[str, str]:
    return {str(Path(path).relative_to(root)): side for side, split in found.splits.items() for path in split.paths}


def test_one_row_more_moves_one_other_image_at_most(tmp_path):
    rows = [f"{name}{i}.png,{name}" for name in "ab" for i in range(20)]
    file = write_csv(tmp_path, "\n".join(["path,label", *rows]), a=21, b=20)
    before = side_of_each(table(str(file)), tmp_path)
    for at in (0, 7, 40):
        file.write_text("\n".join(["path,label", *rows[:at], "a20.png,a", *rows[at:]]))
        after = side_of_each(table(str(file)), tmp_path)
        assert sum(after[name] != side for name, side in before.items()) <= 1


def test_one_group_more_moves_one_other_group_at_most(tmp_path):
    rows = [f"a{i}.png,cat,p{i // 2}" for i in range(40)]
    file = write_csv(tmp_path, "\n".join(["path,label,group", *rows]), a=42)
    before = side_of_each(table(str(file)), tmp_path)
    file.write_text("\n".join(["path,label,group", "a40.png,cat,q", "a41.png,cat,q", *rows[::-1]]))
    after = side_of_each(table(str(file)), tmp_path)
    assert sum(after[name] != side for name, side in before.items()) in (0, 2)


def test_a_table_is_split_alike_wherever_it_lies(tmp_path):
    """With paths that are relative, absolute, beside its folder and through links."""
    sides = []
    for place in ("here", "far/away/there"):
        lists, images, pool = (tmp_path / place / name for name in ("lists", "images", f"pool-{len(place)}"))
        rows = []
        for folder in (lists, images, pool):
            folder.mkdir(parents=True)
        for i in range(10):
            for file in (lists / f"a{i}.png", lists / f"b{i}.png", images / f"c{i}.png", pool / f"d{i}.png"):
                file.touch()
            (lists / f"d{i}.png").symlink_to(pool / f"d{i}.png")
            rows += [f"a{i}.png,x", f"{lists}/b{i}.png,x", f"../images/c{i}.png,x", f"d{i}.png,x"]
        found = table(str(write_csv(lists, "\n".join(["path,label", *rows]))))
        sides.append({Path(path).name for path in found.valid.paths})
    assert sides[0] == sides[1]
    assert len(sides[0]) == 8


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
        ("path,label\na0.png,cat, dog\n", r"line 2: it has more cells than the header; put one with a comma in quotes"),
        ("path,label,label\na0.png,cat,dog\n", r"data\.csv has the column label twice"),
        ('path,label\na0.png,"ca"t\n', r"data\.csv, line 1: ',' expected after '\"'; save it as comma-separated"),
        ("path,label\na0.png," + "x" * 200_000, r"data\.csv, line 1: field larger than field limit"),
        ('path,label\na0.png,"cat\n', r"data\.csv, line 1: unexpected end of data"),
        ('path,label\n\n"a0.png","cat\ndog"\n\na1.png,\n', r"line 6: path or label is empty"),
        ("path,label,split\n" + GOOD + "a0.png,cat,dev\n", r"line 5: split='dev'; use train, valid or test"),
        ("path,label,split\na0.png,cat,\n", r"line 2: split=''; use train, valid or test"),
        ("path,label,split\n" + GOOD + "a3.png,cow,valid\n", r"no training image of cow; add some"),
        (
            "path,label\na0.png,cat\na1.png,dog\n./a0.png,dog\n",
            r"data\.csv, line 4: a0\.png has label='dog' here and 'cat' in line 2; leave one",
        ),
        (
            "path,label,split\na0.png,cat,train\na1.png,dog,train\na0.png,cat,test\n",
            r"data\.csv, line 4: a0\.png has split='test' here and 'train' in line 2; leave one",
        ),
        (
            "path,label,group\na0.png,cat,p1\na1.png,dog,\na0.png,cat,p2\n",
            r"data\.csv, line 4: a0\.png has group='p2' here and 'p1' in line 2; leave one",
        ),
        (
            "path,label,split,group\na0.png,cat,train,p1\na1.png,dog,train,p2\na2.png,cat,valid,p1\n",
            r"groups on both sides of the split: p1; give each group one split",
        ),
        (
            "path,label,split,group\na0.png,cat,train,p1\na1.png,cat,valid,p2\na2.png,cat,test,p2\n",
            r"groups on both sides of the split: p2; give each group one split",
        ),
    ],
)
def test_a_wrong_csv_is_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        table(str(write_csv(tmp_path, text, a=4)))


def test_commas_that_a_spreadsheet_left_behind_are_passed_over(tmp_path):
    rows = [f"a{i}.png,{label},,," for i, label in enumerate(("cat", "cat", "dog", "dog"))]
    found = table(str(write_csv(tmp_path, "\n".join(["path,label,,", *rows]), a=4)))
    assert (found.classes, found.train.tags) == (("cat", "dog"), {})


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
