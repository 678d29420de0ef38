"""Moments and steps come from a checkpoint, options from the configuration."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hct_lightning.runs.folder import Run
from hct_lightning.training.muon import Muon
from hct_lightning.training.resuming import StepSchedule, checkpoint_to_resume, keep_options


def made(kind: type[torch.optim.Optimizer], policy: Any = lambda step: 1 / (1 + step), **options: Any) -> tuple:
    """An optimiser of two layers, one of them without decay, and its schedule."""
    torch.manual_seed(0)
    one, two = nn.Linear(3, 3), nn.Linear(3, 1)
    groups = [{"params": [*one.parameters()]}, {"params": [*two.parameters()], "weight_decay": 0.0}]
    optimizer = kind(groups, **options)
    keep_options(optimizer)
    return one, two, optimizer, StepSchedule(optimizer, policy)


@pytest.fixture
def saved() -> tuple[dict, dict]:
    """The states of AdamW and its schedule after three steps."""
    one, two, optimizer, schedule = made(torch.optim.AdamW, lr=0.01, weight_decay=0.1)
    for _ in range(3):
        two(one(torch.ones(2, 3))).sum().backward()
        optimizer.step()
        schedule.step()
    return optimizer.state_dict(), schedule.state_dict()


def test_without_other_options_everything_comes_back(saved, caplog):
    _, _, optimizer, schedule = made(torch.optim.AdamW, lr=0.01, weight_decay=0.1)
    with caplog.at_level("INFO"):
        optimizer.load_state_dict(saved[0])
        schedule.load_state_dict(saved[1])
    assert optimizer.state_dict()["param_groups"] == saved[0]["param_groups"]
    assert schedule.state_dict() == saved[1]
    for i, moments in saved[0]["state"].items():
        assert all(torch.equal(optimizer.state_dict()["state"][i][key], value) for key, value in moments.items())
    assert not caplog.text


def test_other_options_take_effect_at_once(saved, caplog):
    _, _, optimizer, schedule = made(
        torch.optim.AdamW, lambda step: 0.5**step, lr=0.4, weight_decay=0.2, betas=(0.8, 0.9)
    )
    with caplog.at_level("INFO"):
        optimizer.load_state_dict(saved[0])
        schedule.load_state_dict(saved[1])
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.2, 0.0]
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.9)
    assert [group["lr"] for group in optimizer.param_groups] == [0.4 / 8] * 2
    assert optimizer.state_dict()["state"][0]["step"] == 3
    assert "the learning rate is 0.05 from here on; the checkpoint's was 0.0025" in caplog.text
    optimizer.step()
    schedule.step()
    assert schedule.get_last_lr() == [0.4 / 16] * 2


def test_an_optimiser_of_another_class_begins_anew(saved, caplog):
    one, two, optimizer, _ = made(torch.optim.SGD, lr=0.4, momentum=0.9)
    with caplog.at_level("INFO"):
        optimizer.load_state_dict(saved[0])
    assert "SGD begins without moments: the checkpoint's are of AdamW" in caplog.text
    assert not optimizer.state_dict()["state"]
    two(one(torch.ones(2, 3))).sum().backward()
    optimizer.step()


def test_a_checkpoint_that_does_not_say_its_class_has_the_same(saved):
    _, _, optimizer, _ = made(torch.optim.AdamW, lr=0.01)
    optimizer.load_state_dict({key: value for key, value in saved[0].items() if key != "class"})
    assert optimizer.state_dict()["state"][0]["step"] == 3


def test_a_run_goes_on_from_a_checkpoint_of_its_own(tmp_path, monkeypatch):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name in ("last", "best", "epoch3"):
        (folder / f"{name}.ckpt").touch()
    (tmp_path / "other.ckpt").touch()

    def chosen(ckpt: str | None) -> Path | None:
        return checkpoint_to_resume(Run(tmp_path), ckpt, goes_on=True)

    assert [chosen(ckpt) for ckpt in (None, "last", "best")] == [folder / f"{n}.ckpt" for n in ("last", "last", "best")]
    assert chosen(str(folder / "epoch3.ckpt")) == folder / "epoch3.ckpt"
    with pytest.raises(ValueError, match=r"other\.ckpt: a run goes on from a checkpoint of its own, in .*checkpoints"):
        chosen(str(tmp_path / "other.ckpt"))
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")  # it went back to the best one before the restart
    assert chosen("best") == folder / "last.ckpt"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("exp_avg", torch.zeros(4, 3), r"state\[0\]\.exp_avg is of shape \(4, 3\)"),
        ("exp_avg_sq", torch.full((3, 3), torch.nan), r"state\[0\]\.exp_avg_sq is of shape \(3, 3\), or not finite"),
        ("step", "x", r"state\[0\]\.step is 'x'"),
        ("more", 1, r"state\[2\] holds step, exp_avg, exp_avg_sq$"),
    ],
)
def test_moments_that_were_changed_are_named(saved, name, value, said):
    _, _, optimizer, _ = made(torch.optim.AdamW, lr=0.01, weight_decay=0.1)
    saved[0]["state"][0][name] = value
    with pytest.raises(ValueError, match=rf"optimizer_states\[0\]\.{said}"):
        optimizer.load_state_dict(saved[0])


def test_moments_of_fewer_parameters_and_steps_that_are_none_are_named(saved):
    _, _, optimizer, schedule = made(torch.optim.AdamW, lr=0.01, weight_decay=0.1)
    with pytest.raises(ValueError, match=r"lr_schedulers\[0\]\.last_epoch is 'x', not a count"):
        schedule.load_state_dict(saved[1] | {"last_epoch": "x"})
    saved[0]["param_groups"][1]["params"].pop()
    with pytest.raises(ValueError, match="are those of another network"):
        optimizer.load_state_dict(saved[0])


@pytest.mark.parametrize("kind", [torch.optim.Adafactor, torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop])
def test_moments_of_every_kind_come_back(kind):
    one, two, optimizer, _ = made(kind, lr=0.01)
    for _ in range(2):
        two(one(torch.ones(2, 3))).sum().backward()
        optimizer.step()
    again = made(kind, lr=0.01)[2]
    again.load_state_dict(optimizer.state_dict())
    assert again.state_dict()["state"].keys() == optimizer.state_dict()["state"].keys()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", [Muon, torch.optim.Adafactor])
def test_moments_of_kernels_with_one_input_channel_come_back(kind, channels):
    # The first layer of grey images, and depthwise ones: Muon has AdamW for these, and momentum for other kernels.
    def network_and_optimizer() -> tuple[nn.Module, Any]:
        network = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 2, 1))
        optimizer = kind(network.parameters(), lr=0.01)
        keep_options(optimizer)
        return network, optimizer

    network, optimizer = network_and_optimizer()
    network(torch.ones(1, channels, 8, 8)).sum().backward()
    optimizer.step()
    saved = optimizer.state_dict()
    again = network_and_optimizer()[1]
    again.load_state_dict(saved)
    for i, moments in saved["state"].items():
        torch.testing.assert_close(dict(again.state_dict()["state"][i]), dict(moments))
