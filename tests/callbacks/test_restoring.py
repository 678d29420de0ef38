"""A sound checkpoint in which values have been changed."""

import copy

import pytest
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, EMAWeightAveraging, ModelCheckpoint, Timer

from hct_lightning.callbacks.own_options import OwnOptions
from hct_lightning.callbacks.restoring import Restoring

LOOP = "loops.fit_loop.epoch_loop.batch_progress"
CHANGES = (
    (f"{LOOP}.current.ready", "x", f"{LOOP}.current.ready is 'x', not a count"),
    (f"{LOOP}.total.completed", -1, f"{LOOP}.total.completed is -1, not a count"),
    (f"{LOOP}.is_last_batch", None, f"{LOOP}.is_last_batch is None, not a bool"),
    (LOOP, [], f"{LOOP} is [], not a dict"),
    ("loops.fit_loop.epoch_progress", "delete", "loops.fit_loop.epoch_progress is missing"),
    ("BEST.best_model_path", 3, "best_model_path is 3, not a str"),
    ("BEST.best_k_models", {"x": "y"}, "is 'y'"),
    ("BEST.kth_value", torch.zeros(3), "kth_value is tensor([0., 0., 0.]), not tensor"),
    ("callbacks.EarlyStopping{'monitor': 'val/accuracy', 'mode': 'max'}.wait_count", "z", "wait_count is 'z'"),
)


class Broken(Callback):
    def on_train_batch_end(self, *_) -> None:
        raise KeyError("mine")


def changed(saved: dict, place: str, value: object) -> dict:
    """A copy with another value at a place: keys with dots between them, but for those within keys of Lightning's."""
    node = copy.deepcopy(saved)
    root, keys = node, []
    place = place.replace("BEST", next(f"callbacks.{key}" for key in saved["callbacks"] if key.startswith("Model")))
    rest = place
    while rest:
        key = max((key for key in map(str, node) if rest == key or rest.startswith(f"{key}.")), key=len)
        keys.append((node, key))
        node, rest = node[key], rest[len(key) + 1 :]
    holder, key = keys[-1]
    if value == "delete":
        del holder[key]
    else:
        holder[key] = value
    return root


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_what_was_changed_is_named_before_the_first_step(fit, tmp_path):
    file = tmp_path / "changed.ckpt"

    def callbacks() -> list[Callback]:
        best = ModelCheckpoint(tmp_path / "checkpoints", "best", monitor="val/accuracy", mode="max")
        return [Restoring(), OwnOptions(), best, EarlyStopping("val/accuracy", mode="max")]

    trainer = fit(*callbacks(), enable_checkpointing=True)
    trainer.save_checkpoint(file)
    saved = torch.load(file, weights_only=True)
    for place, value, said in CHANGES:
        torch.save(changed(saved, place, value), file)
        first, *others = callbacks()
        with pytest.raises(ValueError, match=r"changed\.ckpt is damaged: ") as refused, first.naming(file):
            fit(first, *others, Broken(), enable_checkpointing=True, ckpt_path=file, max_epochs=2)
        assert said in str(refused.value), place
        assert "\n" not in str(refused.value)
    torch.save(saved, file)
    first, *others = callbacks()
    with pytest.raises(KeyError, match="mine"), first.naming(file):  # once it trains, errors are what they are
        fit(first, *others, Broken(), enable_checkpointing=True, ckpt_path=file, max_epochs=2)


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_callbacks_of_lightning_come_back(fit, tmp_path):
    def callbacks() -> list[Callback]:
        best = ModelCheckpoint(tmp_path / "checkpoints", "best", monitor="val/accuracy", mode="max", save_top_k=2)
        return [Restoring(), OwnOptions(), best, EMAWeightAveraging(decay=0.9), Timer("00:01:00:00")]

    trainer = fit(*callbacks(), enable_checkpointing=True)
    trainer.save_checkpoint(tmp_path / "sound.ckpt")
    first, *others = callbacks()
    with first.naming(tmp_path / "sound.ckpt"):
        again = fit(first, *others, enable_checkpointing=True, ckpt_path=tmp_path / "sound.ckpt", max_epochs=2)
    assert again.global_step == 2 * trainer.global_step
