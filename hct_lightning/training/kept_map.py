"""What the tiles of an image gave, in a file: a program that was killed goes on with it."""

import contextlib
import json
import logging
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hct_lightning.runs.files import write_whole

log = logging.getLogger(__name__)

BOOT = Path("/proc/sys/kernel/random/boot_id")


class KeptMap:
    """A map, filled place by place.

    What is written is there after a kill, but perhaps not after the machine has stopped: a map of an earlier start of
    the machine is begun anew.

    Args:
        folder: that is made for it. One that holds another map is emptied.
        made_by: what the map depends on, in JSON's types.

    Attributes:
        done: how many places are filled.
    """

    def __init__(self, folder: Path, made_by: Mapping[str, Any]) -> None:
        self.folder = folder
        self.about = {**made_by, "boot": BOOT.read_text() if BOOT.exists() else os.getpid()}
        self.done = 0
        self._in_a_file = True
        try:
            found = json.loads((folder / "map.json").read_text())
            if found["made_by"] == self.about and (folder / "map.bin").exists():
                self.done = found["done"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass
        if self.done:
            log.info("  going on after %d tiles that are in %s", self.done, folder)

    @classmethod
    def of_image(cls, beside: Path, made_by: Mapping[str, Any], image: str, tile: int, *, rank: int) -> "KeptMap":
        """The map of an image file in tiles of so many pixels, in a folder beside the file `beside`."""
        with contextlib.suppress(OSError):  # what lies at a url
            about = os.stat(image)
            made_by = {**made_by, "bytes": about.st_size, "changed": about.st_mtime_ns}
        folder = beside.with_name(f"{beside.name}.tiles-{rank}")
        return cls(folder, {**made_by, "image": image, "tile": tile})

    def map(self, shape: tuple[int, int, int, int], dtype: torch.dtype) -> Tensor:
        """The map, 1 c h w, channels_last; in memory where the disk is too full for it."""
        size = math.prod(shape) * dtype.itemsize
        _, channels, height, width = shape
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(self.folder / "map.bin", "r+b" if self.done else "w+b") as file:
                if hasattr(os, "posix_fallocate"):  # not on macOS
                    os.posix_fallocate(file.fileno(), 0, size)  # a full disk would kill the process later
                else:
                    file.truncate(size)
                values = np.memmap(file, np.uint8, "r+", shape=(size,))
        except OSError as error:
            if self.done:
                raise
            log.info("  what tiles give is not kept: %s: %s", self.folder, error.strerror)
            self._in_a_file, values = False, np.empty(size, np.uint8)
        return torch.from_numpy(values).view(dtype).view(1, height, width, channels).permute(0, 3, 1, 2)

    def note(self, done: int) -> None:
        """Says that so many places are filled."""
        self.done = done
        if self._in_a_file:
            write_whole(self.folder / "map.json", json.dumps({"made_by": self.about, "done": done}))

    def remove(self) -> None:
        """Gives the room back."""
        shutil.rmtree(self.folder, ignore_errors=True)
