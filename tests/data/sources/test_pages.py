"""The list of the pages, and how they are brought: from real repositories of a few files, made here."""

import csv
import re
from collections import Counter
from importlib.resources import files
from pathlib import Path, PurePosixPath

import pytest

from hct_lightning.data.sources.blobs import blob_id
from hct_lightning.data.sources.pages import Page, bring, listed, obtain, pages

COUNTS = {
    "early": (78, 33, 33),
    "gothic": (58, 28, 31),
    "medieval": (63, 32, 33),
    "modern": (67, 34, 30),
    "roman": (77, 36, 41),
}
CONTENTS = {f"books/{name}/{i}.jpg": f"{name} {i}".encode() for name in ("a b", "ç") for i in range(6)}
REPOSITORIES = ("HTR-United/CREMMA-MSS-17", "HTR-United/CREMMA-MSS-18")  # of the list, for their commits
SIDES = ("train", "train", "valid", "test", "train", "valid")


@pytest.fixture
def host(make_repository, tmp_path) -> Path:
    """A folder of two repositories with twelve pages each."""
    for repository in REPOSITORIES:
        make_repository(tmp_path / "host" / repository, CONTENTS)
    return tmp_path / "host"


@pytest.fixture
def wanted() -> list[Page]:
    """Their pages: a label a book, and each page a group of its own."""
    return [
        Page(repository, path, blob_id(content), path.split("/")[1], SIDES[i % 6], f"{repository}{i}")
        for repository in REPOSITORIES
        for i, (path, content) in enumerate(CONTENTS.items())
    ]


def ages(root: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in root.rglob("*.jpg")}


# --- The list


def test_the_list_counts_as_documented():
    found = Counter((page.label, page.split) for page in listed())
    assert {label: tuple(found[label, side] for side in ("train", "valid", "test")) for label in COUNTS} == COUNTS
    assert sum(found.values()) == sum(map(sum, COUNTS.values())) == 674
    text = re.sub(r"\s", "", (Path(__file__).parents[3] / "docs" / "pages.md").read_text())
    for label, counts in COUNTS.items():
        assert re.search(rf"\|{label}\|[^|]*\|" + r"\|".join(map(str, counts)) + r"\|", text), label


def test_no_group_stands_in_two_splits():
    assert len({(page.group, page.split) for page in listed()}) == len({page.group for page in listed()}) == 269


def test_every_page_is_a_file_of_its_own():
    every = listed()
    assert len({page.file for page in every}) == len({page.blob for page in every}) == len(every)
    for page in every:
        assert re.fullmatch(r"[0-9a-f]{40}", page.blob)
        assert re.fullmatch(r"[\w-]+/[\w.-]+", page.repository)
        assert ".." not in PurePosixPath(page.file).parts
        assert PurePosixPath(page.path).suffix.lower() in (".jpg", ".jpeg", ".png", ".tif")


def test_where_the_pages_come_from_is_known():
    rows = list(csv.DictReader((files("hct_lightning.data.sources") / "repositories.csv").read_text().splitlines()))
    assert [row["repository"] for row in rows] == list(dict.fromkeys(page.repository for page in listed()))
    assert all(re.fullmatch(r"[0-9a-f]{40}", row["commit"]) and row["licence"] for row in rows)


# --- Bringing them


def test_brings_the_pages_and_goes_on(host, wanted, tmp_path):
    root = tmp_path / "pages"
    going = bring(wanted, root, host=host.as_uri())
    for _ in range(3):
        assert next(going)[1] is None
    going.close()  # stopped in the middle of a repository
    before = ages(root)
    assert 3 <= len(before) < len(wanted)
    assert list(bring(wanted, root, host=host.as_uri())) == [(page, None) for page in wanted]
    for page in wanted:
        assert blob_id((root / page.file).read_bytes()) == page.blob
    assert ages(root).items() >= before.items()  # what was there has been left alone


def test_a_damaged_page_is_brought_again(host, wanted, tmp_path):
    root = tmp_path / "pages"
    list(bring(wanted, root, host=host.as_uri()))
    damaged, *others = (root / page.file for page in wanted)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    before = ages(root)
    assert {reason for _, reason in bring(wanted, root, host=host.as_uri())} == {None}
    assert blob_id(damaged.read_bytes()) == wanted[0].blob
    assert all(ages(root)[other] == before[other] for other in others)


def test_what_is_in_a_clone_is_not_fetched(host, wanted, tmp_path):
    nowhere = (tmp_path / "nowhere").as_uri()
    assert {reason for _, reason in bring(wanted, tmp_path / "a", clones=host, host=nowhere)} == {None}
    # What a clone lacks is.
    (tmp_path / "clones").mkdir()
    (host / REPOSITORIES[0]).rename(tmp_path / "clones" / "CREMMA-MSS-17")
    found = list(bring(wanted, tmp_path / "b", clones=tmp_path / "clones", host=host.as_uri()))
    assert {reason for _, reason in found} == {None}


def test_what_is_missing_is_named_and_the_others_are_brought(host, wanted, tmp_path, capsys):
    root = tmp_path / "pages"
    other = wanted[1]._replace(blob=blob_id(b"as it was in another commit"))
    gone = [wanted[0]._replace(repository="HTR-United/CREMMA-MSS-19", path=f"{i}.jpg") for i in range(20)]
    every = [wanted[0], other, *wanted[2:], *gone]
    assert obtain(every, root, host=host.as_uri()) == 1
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"1 missing from {REPOSITORIES[0]} (no longer there; it was, in commit 172906fdb7")
    assert lines[0].endswith(f": {other.path}")
    assert re.match(r"20 missing from HTR-United/CREMMA-MSS-19 \(.* does not appear to be a git repository\)", lines[1])
    assert said.out == f"23 of 44 pages in {root}\n"
    assert not (root / other.file).exists()
    found = pages(str(root))
    assert len(found.train) + len(found.valid) + len(found.test) == 23
    assert found.notes == ("651 of 674 pages are missing",)


def test_a_table_says_what_is_known_of_the_pages(host, wanted, tmp_path):
    root = tmp_path / "pages"
    assert obtain(wanted, root, host=host.as_uri()) == 0
    found = pages(str(root))
    assert found.classes == ("a b", "ç")
    assert [len(found.splits[side]) for side in ("train", "valid", "test")] == [12, 8, 4]
    for side, split in found.splits.items():
        of = {str(root / page.file): page for page in wanted if page.split == side}
        assert [of[path].label for path in split.paths] == [found.classes[label] for label in split.labels]
        assert split.tags == {
            "group": [of[path].group for path in split.paths],
            "repository": [of[path].repository for path in split.paths],
        }


def test_without_the_pages_it_says_how_to_get_them(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data\.root=.*: the pages are not there; `make pages` brings them"):
        pages(str(tmp_path / "pages"))


def test_without_git_or_clones_it_says_so(tmp_path, monkeypatch, wanted):
    with pytest.raises(OSError, match="clones is no folder"):
        obtain(wanted, tmp_path, clones=tmp_path / "clones")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OSError, match="install git"):
        obtain(wanted, tmp_path)
