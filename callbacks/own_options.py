"""Callbacks keep their own options when a run is resumed, and its folder may have been moved."""

from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint


class OwnOptions(Callback):
    """Takes options of Lightning's callbacks out of the state that a checkpoint brings them.

    Without it `patience` stays what it was, and in a folder that has been moved the best score so far is forgotten: the
    next epoch would replace `best.ckpt`, however bad it is.
    """

    def on_load_checkpoint(self, trainer: Any, module: Any, checkpoint: dict) -> None:
        for callback in trainer.callbacks:
            state = checkpoint["callbacks"].get(callback.state_key)
            if state and isinstance(callback, EarlyStopping):
                state["patience"] = callback.patience
            elif state and isinstance(callback, ModelCheckpoint) and callback.dirpath and state.get("dirpath"):
                checkpoint["callbacks"][callback.state_key] = _moved(state, str(callback.dirpath))


def _moved(state: dict[str, Any], folder: str) -> dict[str, Any]:
    """The state of a ModelCheckpoint whose files now lie in `folder`."""

    def path(old: str) -> str:
        inside = old and Path(old).is_relative_to(state["dirpath"])
        return str(Path(folder) / Path(old).relative_to(state["dirpath"])) if inside else old

    paths = {name: path(state[name]) for name in ("best_model_path", "kth_best_model_path", "last_model_path")}
    scores = {path(old): score for old, score in state["best_k_models"].items()}
    return state | paths | {"dirpath": folder, "best_k_models": scores}
