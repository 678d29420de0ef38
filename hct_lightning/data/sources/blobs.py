"""Files of public git repositories, by the digests of their contents (git's *blob ids*)."""

import hashlib
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

# English messages; no question for a name and password; and no connection that stands still for ever.
_ENVIRONMENT = {
    "LC_ALL": "C",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_HTTP_LOW_SPEED_LIMIT": "1000",
    "GIT_HTTP_LOW_SPEED_TIME": "60",
}


def blob_id(content: bytes) -> str:
    """The name that git gives to a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def find_clone(folder: Path, repository: str) -> Path | None:
    """The git directory of `owner/name`, as `owner/name` or `name` in `folder`, with a work tree or bare."""
    name = repository.split("/")[1]
    for place in (folder / repository, folder / f"{repository}.git", folder / name, folder / f"{name}.git"):
        for git_dir in (place / ".git", place):
            if (git_dir / "objects").is_dir():
                return git_dir
    return None


def read(git_dir: Path, blobs: Sequence[str]) -> dict[str, bytes]:
    """The contents of those blobs that a repository holds, undamaged."""
    said = _git(git_dir, "cat-file", "--batch", given="".join(f"{blob}\n" for blob in blobs)).stdout
    found, at = {}, 0
    while at < len(said):
        end = said.index(b"\n", at)
        name, *kind = said[at:end].split()  # a name, then either `blob` and a size, or `missing`
        at = end + 1
        if kind[0] == b"missing":
            continue
        size = int(kind[1])
        content = said[at : at + size]
        at += size + 1
        if blob_id(content) == name.decode():
            found[name.decode()] = content
    return found


def fetch(url: str, blobs: Sequence[str]) -> dict[str, bytes]:
    """Brings blobs from a repository that lies elsewhere; nothing else of it is downloaded.

    Returns:
        The contents of those that it holds.

    Raises:
        OSError: when the repository can't be reached, with git's reason.
    """
    with TemporaryDirectory() as folder:
        git_dir = Path(folder)
        _git(git_dir, "init", "--quiet", "--bare")
        done = _git(git_dir, "fetch", "--quiet", url, *blobs)
        if done.returncode == 0:
            return read(git_dir, blobs)
    error = done.stderr.decode(errors="replace")
    if "not our ref" in error:  # one that is not there spoils the call for all
        return {} if len(blobs) == 1 else {name: found for blob in blobs for name, found in fetch(url, [blob]).items()}
    if "could not read Username" in error:
        raise OSError(f"{url} asks for a password: the repository is gone, or no longer public")
    reasons = [line for line in error.splitlines() if line.startswith(("fatal:", "error:"))]
    raise OSError(reasons[0].partition(": ")[2] if reasons else error.strip() or f"git ended with {done.returncode}")


def _git(git_dir: Path, *args: str, given: str = "") -> subprocess.CompletedProcess[bytes]:
    command = ["git", f"--git-dir={git_dir}", *args]
    return subprocess.run(command, input=given.encode(), capture_output=True, env=os.environ | _ENVIRONMENT)
