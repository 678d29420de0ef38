"""Pages: 674 scans of books, manuscripts and letters, in five classes that the form of the letters decides.

    python -m hct_lightning.data.sources.pages FOLDER [--clones CLONES]   brings them from their public repositories

`pages.csv` beside this file lists them, `repositories.csv` where they come from. The pages of an owner's repository
lie in FOLDER/<owner>/<repository>, under their own names, and FOLDER/pages.csv is their table.
"""

import argparse
import csv
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from hct_lightning.data.catalogue import Catalogue, some
from hct_lightning.data.sources.blobs import blob_id, fetch, find_clone, read
from hct_lightning.data.sources.csv import from_rows, read_rows
from hct_lightning.runs.console import track
from hct_lightning.runs.files import csv_text, open_whole, write_whole

TABLE = "pages.csv"
GITHUB = "https://github.com"
AT_ONCE = 8  # pages that one call of git brings, some 12 MB


class Page(NamedTuple):
    """A page of the list.

    repository: owner/name, on GitHub.
    path: of the file, in the repository.
    blob: git's digest of the file.
    label: its class.
    split: train, valid or test.
    group: the book, the letters of one writer, or the volumes that belong together; never divided.
    """

    repository: str
    path: str
    blob: str
    label: str
    split: str
    group: str

    @property
    def file(self) -> str:
        """Relative to the folder of the pages."""
        return f"{self.repository}/{self.path}"


def pages(root: str) -> Catalogue:
    """The pages that lie in `root`, divided as the list says.

    Raises:
        FileNotFoundError: when `make pages` has not been here, or pages have vanished since.
    """
    file = Path(root).expanduser().resolve() / TABLE
    if not file.is_file():
        raise FileNotFoundError(
            f"data.root={root}: the pages are not there; `make pages` brings them from the network, 1 GB "
            "(see docs/pages.md)"
        )
    (rows, _), every = read_rows(file), len(listed())
    notes = [f"{every - len(rows)} of {every} pages are missing"] if len(rows) < every else []
    return from_rows(f"pages {file.parent}", rows, notes)


def listed() -> list[Page]:
    """Every page, those of a repository together."""
    return [Page(**row) for row in _rows_beside("pages.csv")]


def _rows_beside(name: str) -> list[dict[str, str]]:
    text = (files("hct_lightning.data.sources") / name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def bring(
    wanted: Iterable[Page], root: Path, *, clones: Path | None = None, host: str = GITHUB
) -> Iterator[tuple[Page, str | None]]:
    """Brings to `root` what isn't there yet, undamaged; killed at any moment, the next call goes on.

    Args:
        wanted: the pages, those of a repository together.
        root: their folder.
        clones: a folder with clones of some of the repositories, which are asked first.
        host: where the repositories are found.

    Yields:
        Each page when it is there; or with the reason why it isn't.
    """
    commits = {row["repository"]: row["commit"] for row in _rows_beside("repositories.csv")}
    for repository, group in groupby(wanted, key=lambda page: page.repository):
        missing = []
        for page in group:
            file = root / page.file
            if file.is_file() and blob_id(file.read_bytes()) == page.blob:
                yield page, None
            else:
                missing.append(page)
        clone = find_clone(clones, repository) if clones else None
        unreachable = None
        for start in range(0, len(missing), AT_ONCE):
            batch = missing[start : start + AT_ONCE]
            contents = read(clone, [page.blob for page in batch]) if clone else {}
            if (rest := [page.blob for page in batch if page.blob not in contents]) and not unreachable:
                try:
                    contents |= fetch(f"{host}/{repository}", rest)
                except OSError as error:
                    unreachable = str(error)
            for page in batch:
                if page.blob in contents:
                    _write(root / page.file, contents[page.blob])
                    yield page, None
                else:
                    yield page, unreachable or f"no longer there; it was, in commit {commits[repository]}"


def _write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with open_whole(file) as place:
        place.write(content)


def obtain(every: list[Page], root: Path, *, clones: Path | None = None, host: str = GITHUB) -> int:
    """Brings pages, writes the table of those that are there, says what is missing; returns the exit status.

    Raises:
        OSError: without git, for a folder of clones that isn't there, or when the disk is full.
    """
    if not shutil.which("git"):
        raise OSError("the pages come from git repositories; install git")
    if clones and not clones.is_dir():
        raise OSError(f"{clones} is no folder; give the one that holds the clones")
    reasons = dict(track("pages", bring(every, root, clones=clones, host=host), len(every)))
    there = [page for page in every if reasons[page] is None]
    if there:
        table = [(page.file, page.label, page.split, page.group, page.repository) for page in there]
        write_whole(root / TABLE, csv_text([("path", "label", "split", "group", "repository"), *table]))
    missing = defaultdict(list)
    for page, reason in reasons.items():
        if reason:
            missing[page.repository, reason].append(page.path)
    for (repository, reason), paths in missing.items():
        print(f"{len(paths)} missing from {repository} ({reason}): {some(paths)}", file=sys.stderr)
    print(f"{len(there)} of {len(every)} pages in {root}")
    return 1 if missing else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m hct_lightning.data.sources.pages", description="Brings the pages; goes on where it was stopped."
    )
    parser.add_argument("folder", type=Path, help="for the pages, 1 GB")
    parser.add_argument(
        "--clones", type=Path, help="folder with clones, as <owner>/<name> or <name>; others are fetched"
    )
    options = parser.parse_args()
    try:
        sys.exit(obtain(listed(), options.folder, clones=options.clones))
    except OSError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the next call goes on")
