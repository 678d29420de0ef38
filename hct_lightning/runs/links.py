"""A folder that a stranger may have made: nothing in it leads elsewhere."""

import os
import stat
from pathlib import Path


def check_links(folder: Path) -> None:
    """Refuses a folder with a link that leads out of it, for what is written would land there, or with what is no file.

    Raises:
        ValueError: naming the link, or what is no file: a pipe, say, for which whoever reads it would wait.
    """
    folder = folder.resolve()
    for parent, folders, names in os.walk(folder):
        here = Path(parent)
        if here.name == "wandb" and (here.parent == folder or (here.parent / "run.json").is_file()):
            folders.clear()  # W&B keeps links to its own cache in a run's, and makes a new folder each time
        for name in (*folders, *names):
            path = Path(parent, name)
            try:
                kind = path.lstat().st_mode
            except FileNotFoundError:
                continue  # a temporary file of a run that is being trained
            if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind) or stat.S_ISLNK(kind)):
                raise ValueError(f"{path} is no file and no folder; remove it")
            if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(folder):
                raise ValueError(
                    f"{path} leads to {os.path.realpath(path)}, outside of the run's folder; put the file itself there"
                )
