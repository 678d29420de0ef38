"""DDP's hooks on the CPU: what is sent is less, and the weights come out nearly the same."""

import types

import pytest
import torch
from hydra import compose, initialize_config_module

from hct_lightning.callbacks.average_weights import AverageWeights
from hct_lightning.parallel import hooks
from hct_lightning.training.checkpoints import load_checkpoint

SMALL = (
    # 16 values of a channel in the last BatchNorm. With two, as of 128 px, it makes any difference a large one.
    "data.scene_size=256",
    "data.resolution=256",
    "data.train=80",
    "data.valid=4",
    "data.batch_size=4",
    "data.num_workers=0",
    "runtime.threads=1",
    "trainer.devices=2",
    "trainer.max_epochs=1",
    "model.drop_rate=0",
    "drop_path_rate=0",
    "callbacks=plain",
    "optim=sgd",
    "optim.lr=1e-4",
    "schedule=constant",
    "export=[]",
    "fit.report=false",
)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: hooks.powersgd(rank=0, after_steps=10), r"gradients\.rank=0"),
        (lambda: hooks.powersgd(rank=1, after_steps=1), r"gradients\.after_steps=1"),
        (lambda: hooks.post_local_sgd(period=0, after_steps=1), r"gradients\.period=0"),
        (lambda: hooks.post_local_sgd(period=1, after_steps=-1), r"gradients\.after_steps=-1"),
    ],
)
def test_what_cannot_be_is_refused(build, said):
    with pytest.raises(ValueError, match=said):
        build()


@pytest.fixture(scope="module")
def ddp(cli, tmp_path_factory):
    run = tmp_path_factory.mktemp("ddp") / "run"
    cli(*SMALL, f"hydra.run.dir={run}", cwd=run.parent)
    return run


def trained_weights(run) -> torch.Tensor:
    """Those that began at 0, so that all of them is training."""
    state = load_checkpoint(run / "checkpoints" / "last.ckpt")[0]["state_dict"]
    return torch.cat([value for name, value in state.items() if name.endswith(("bn1.bias", "bn2.bias"))])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "most"),
    [
        (("gradients=fp16",), 0.01),
        (("gradients=bf16",), 0.05),
        (("gradients=powersgd", "gradients.after_steps=2", "gradients.rank=4"), 0.5),
        (("gradients=post_local_sgd", "gradients.after_steps=2", "gradients.period=1"), 0.01),
        (("gradients=post_local_sgd", "gradients.after_steps=2", "gradients.period=4"), 0.5),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_the_weights_are_near_those_of_ddp(cli, ddp, tmp_path, options, most):
    """Near, but not the same: the hook was really called."""
    cli(*SMALL, *options, f"hydra.run.dir={tmp_path}/run", cwd=tmp_path)
    ours, theirs = trained_weights(tmp_path / "run"), trained_weights(ddp)
    assert 0 < (ours - theirs).norm() < most * theirs.norm()


def test_weights_of_each_rank_are_not_averaged_over_the_steps(monkeypatch):
    strategy = hooks.post_local_sgd(period=2, after_steps=2)
    callbacks = [AverageWeights(span=0.5)]
    monkeypatch.setattr(hooks.HookedDDP, "_trainer", types.SimpleNamespace(callbacks=callbacks, global_step=0))
    with pytest.raises(
        ValueError, match=r"gradients=post_local_sgd does not go with averaged weights.*callbacks=plain"
    ):
        strategy.on_train_start()
    callbacks.clear()
    strategy.on_train_start()
    with initialize_config_module("hct_lightning.conf", version_base="1.3"):
        assert "average" not in compose("config", overrides=["gradients=post_local_sgd"]).callbacks
