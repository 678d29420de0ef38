"""Files of git repositories: real ones, made here and reached through file:// urls."""

import subprocess
from pathlib import Path

import pytest

from hct_lightning.data.sources.blobs import blob_id, fetch, find_clone, read

FILES = {"a.txt": b"a", "sub/b b.bin": bytes(range(256)) * 1000, "empty": b""}
BLOBS = [blob_id(content) for content in FILES.values()]
CONTENTS = dict(zip(BLOBS, FILES.values(), strict=True))


@pytest.fixture
def work(make_repository, tmp_path) -> Path:
    return make_repository(tmp_path / "owner" / "name", FILES)


def test_a_blobs_id_is_gits(work):
    said = subprocess.run(["git", "hash-object", *FILES], cwd=work, capture_output=True, text=True, check=True).stdout
    assert said.split() == BLOBS


def test_reads_the_blobs_that_are_there(work):
    absent = blob_id(b"elsewhere")
    assert read(work / ".git", [BLOBS[0], absent, *BLOBS[1:]]) == CONTENTS
    assert read(work / ".git", [absent]) == {}


def test_a_damaged_blob_is_not_there(work):
    path = work / ".git" / "objects" / BLOBS[0][:2] / BLOBS[0][2:]
    path.chmod(0o644)
    path.write_bytes((work / ".git" / "objects" / BLOBS[1][:2] / BLOBS[1][2:]).read_bytes())
    assert read(work / ".git", BLOBS[:1]) == {}


def test_fetches_the_blobs_that_are_there(work):
    assert fetch(work.as_uri(), BLOBS) == CONTENTS
    assert fetch(work.as_uri(), [BLOBS[0], blob_id(b"elsewhere"), BLOBS[1]]) == {b: CONTENTS[b] for b in BLOBS[:2]}


def test_git_says_why_a_repository_cannot_be_reached(tmp_path):
    with pytest.raises(OSError, match="no-such' does not appear to be a git repository"):
        fetch((tmp_path / "no-such").as_uri(), BLOBS)
    with pytest.raises(OSError, match=r"unable to access 'http://127\.0\.0\.1:9/"):
        fetch("http://127.0.0.1:9/owner/name", BLOBS)


@pytest.mark.parametrize("place", ["owner/name", "owner/name.git", "name", "name.git"])
@pytest.mark.parametrize("bare", [True, False])
def test_finds_clones(work, tmp_path, place, bare):
    clones = tmp_path / "clones"
    clone = ["git", "clone", "--quiet", *(["--bare"] if bare else []), work, clones / place]
    subprocess.run(clone, check=True)
    found = find_clone(clones, "owner/name")
    assert found
    assert read(found, BLOBS) == CONTENTS


def test_finds_no_clone_where_there_is_none(work, tmp_path):
    assert find_clone(tmp_path, "owner/other") is None
    (tmp_path / "owner" / "other").mkdir()
    assert find_clone(tmp_path, "owner/other") is None
