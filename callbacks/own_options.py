"""Callbacks keep their own options and their own files when a run is resumed, and its folder may have been moved."""

from pathlib import Path, PurePath
from typing import Any

from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from torch import Tensor


class OwnOptions(Callback):
    """Takes out of the state that a checkpoint brings Lightning's callbacks what is not theirs.

    Options: `patience` would stay what it was. Folders: in one that has been moved the best score so far would be
    forgotten, and the next epoch replace `best.ckpt`, however bad it is. Files elsewhere: ModelCheckpoint deletes what
    was the best before, and a stranger's checkpoint may name anything.
    """

    def on_load_checkpoint(self, trainer: Any, module: Any, checkpoint: dict) -> None:
        for callback in trainer.callbacks:
            state = checkpoint["callbacks"].get(callback.state_key)
            if state and isinstance(callback, EarlyStopping):
                state["patience"] = callback.patience
            elif state and isinstance(callback, ModelCheckpoint) and callback.dirpath:
                checkpoint["callbacks"][callback.state_key] = _own_files(state, callback)


def _own_files(state: dict[str, Any], callback: ModelCheckpoint) -> dict[str, Any]:
    """The state of a ModelCheckpoint of whose files those count that lay in its folder, which may have been moved.

    Raises:
        ValueError: for a score that is none.
    """
    before, folder = PurePath(state.get("dirpath") or str(callback.dirpath)), str(callback.dirpath)

    def path(old: str) -> str:
        """Empty, as Lightning has it for none, for what is elsewhere."""
        inside = PurePath(old).parts[: len(before.parts)] == before.parts and PurePath(old).parts[len(before.parts) :]
        return str(Path(folder, *inside)) if inside and ".." not in inside else ""

    for score in (state["best_model_score"], *state["best_k_models"].values()):
        if score is not None and not (isinstance(score, Tensor) and score.numel() == 1):
            raise ValueError(f"a best score of {callback.state_key} is {score!r:.100}")
    paths = {name: path(state[name]) for name in ("best_model_path", "last_model_path")}
    scores = {path(old): score for old, score in state["best_k_models"].items() if path(old)}
    worst = (max if callback.mode == "min" else min)(scores, key=lambda name: float(scores[name]), default="")
    kth = {"kth_best_model_path": worst, "kth_value": scores.get(worst, state["kth_value"])}  # what is to go next
    return state | paths | kth | {"dirpath": folder, "best_k_models": scores}
