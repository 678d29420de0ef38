"""Images that the command line names: files, folders, globs and lists."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from hct_lightning.data.catalogue import some
from hct_lightning.data.reading.image import is_image
from hct_lightning.data.sources.folder import images_below


def find_images(given: object, option: str) -> list[str]:
    """The images of an option such as `predict.input`, in its order.

    Args:
        given: a file name, a folder (as `images_below` searches it), a glob (sorted), a text file (`.txt`) with a path
            a line, relative to its folder; or several of these.
        option: its name, for messages.

    Raises:
        FileNotFoundError: when there are none.
    """
    if isinstance(given, Sequence) and not isinstance(given, str):
        return [image for one in given for image in find_images(one, option)]
    path = Path(str(given)).expanduser()
    if path.is_file() and path.suffix.lower() == ".txt":
        lines = path.read_bytes().decode("utf-8-sig", "surrogateescape").split("\n")
        images = [str(path.parent / line.rstrip("\r")) for line in lines if line.strip()]
    elif path.is_file():
        images = [str(path)]  # whatever its name
    else:
        found = images_below(path) if path.is_dir() else sorted(glob.glob(str(path), recursive=True))
        images = [image for image in found if os.path.isfile(image) and is_image(Path(image))]
    if not images:
        raise FileNotFoundError(f"{option}={given}: no image there")
    return images


def skips_unreadable(on_error: str, images: Sequence[str], option: str) -> bool:
    """Whether unreadable images of `option` are left out.

    Raises:
        ValueError: for another option than `raise` and `skip`.
        FileNotFoundError: for images that aren't there, when they are not to be skipped.
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f"data.on_error={on_error}: choose raise or skip")
    if on_error == "raise" and (absent := [image for image in images if not os.path.exists(image)]):
        raise FileNotFoundError(
            f"{option} names {len(absent)} files that aren't there: {some(absent)}; correct it, or give "
            "data.on_error=skip"
        )
    return on_error == "skip"
