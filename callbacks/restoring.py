"""What a checkpoint holds that can't be brought back: said in one line, before the first step."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

COUNTS = ("epoch_progress", "epoch_loop.batch_progress", "epoch_loop.automatic_optimization.optim_progress")


class Restoring(Callback):
    """Knows while a checkpoint is brought back, and looks at its counts and at the state of its callbacks before.

    A checkpoint that was read without an error may still have been changed: a step may be a text, a count negative.
    """

    def __init__(self) -> None:
        self._goes_on = False

    def on_load_checkpoint(self, trainer: lightning.Trainer, module: Any, checkpoint: dict) -> None:
        self._goes_on = True
        if missing := set(COUNTS) - checkpoint["loops"]["fit_loop"].keys():  # Lightning would count from 0, silently
            raise ValueError(f"loops.fit_loop.{min(missing)} is missing")
        _compare(checkpoint["loops"], {"fit_loop": trainer.fit_loop.state_dict()}, "loops")
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        _compare(checkpoint["callbacks"], {c.state_key: c.state_dict() for c in callbacks}, "callbacks")

    def on_sanity_check_start(self, *_: Any) -> None:
        self._goes_on = False

    def on_train_start(self, *_: Any) -> None:
        self._goes_on = False

    @contextmanager
    def naming(self, file: Path | None) -> Iterator[None]:
        """Around training: what fails while the file is brought back names it.

        Raises:
            ValueError: in place of what Lightning, PyTorch or a callback raises of values that it can't use.
        """
        try:
            yield
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            if not self._goes_on:
                raise
            reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            raise ValueError(
                f"{file} is damaged: {' '.join(reason.split()):.500}; go on from another checkpoint, with ckpt=best say"
            ) from error


def _compare(saved: Any, fresh: Any, name: str) -> None:
    """Raises ValueError for the first value of another kind than a fresh one has, and for a negative count.

    What only one of the two has is left to whoever reads it.
    """
    if isinstance(fresh, Mapping) and isinstance(saved, Mapping):
        for key in fresh.keys() & saved.keys():
            _compare(saved[key], fresh[key], f"{name}.{key}")
    elif fresh is None:
        return
    elif isinstance(fresh, int | float) and not isinstance(fresh, bool):
        kinds = (int,) if name.startswith("loops") else (int, float)  # a clock begins at 0, and goes on with 0.5
        if type(saved) not in kinds or saved < min(fresh, 0):  # some are -1 before the first
            raise ValueError(f"{name} is {saved!r:.100}, not a count")
    elif isinstance(fresh, torch.Tensor):
        if not isinstance(saved, torch.Tensor) or saved.shape != fresh.shape:
            raise ValueError(f"{name} is {saved!r:.100}, not {fresh!r:.100} or the like")
    elif not isinstance(saved, type(fresh)):
        raise ValueError(f"{name} is {saved!r:.100}, not a {type(fresh).__name__}")
