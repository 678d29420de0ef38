"""How a rank takes its share of a global batch within the memory there is."""

import types
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import timm
import torch

from hct_lightning.models import FromPixels
from hct_lightning.training.memory import step_memory
from hct_lightning.training.memory_plan import Feeding, MemoryPlan, available_bytes, choose_memory, fewest_parts


@pytest.mark.parametrize("most", range(9))
def test_fewest_parts_that_fit(most):
    def fits(memory: str, images: int) -> bool:
        return images <= most

    plan = fewest_parts(fits, 16, 8, "speed")
    assert plan == (MemoryPlan(-(-16 // most), "speed") if most else None)


def test_available_memory_is_shared_by_the_ranks_of_a_machine():
    alone, shared = (available_bytes(torch.device("cpu"), n) for n in (1, 4))
    assert shared == pytest.approx(alone / 4, rel=0.1)


@pytest.fixture
def plan(step, remembered, build, monkeypatch) -> Callable[..., MemoryPlan]:
    """The choice for `share` images where `images` of them fit with `speed` (the estimate is real)."""

    def plan(share: int, images: float, **options) -> MemoryPlan:
        options = {"memory": "auto", "micro_batches": "auto", "batch_size": share, "feeding": Feeding()} | options
        one, two = step(1).resident, step(2).resident
        available = int((one + (images - 1) * (two - one)) / 0.8)
        monkeypatch.setattr("hct_lightning.training.memory_plan.available_bytes", lambda *_: available)
        return choose_memory(
            torch.device("cpu"),
            global_batch=share,
            ranks=1,
            ranks_here=1,
            step=partial(remembered, build, channels=3, size=(1024, 1024), precision="32-true"),
            pixels=2**20,
            channels=3,
            **options,
        )

    return plan


def by_speed(step: Callable[..., Any], global_batch: int, ranks: int, pixels: int) -> MemoryPlan:
    """The choice of ranks of one machine that have an equal share of images of three channels, or one more."""
    return choose_memory(
        torch.device("cpu"),
        global_batch=global_batch,
        ranks=ranks,
        ranks_here=ranks,
        memory="speed",
        micro_batches="auto",
        step=step,
        pixels=pixels,
        channels=3,
        batch_size=max(1, global_batch // ranks),
        feeding=Feeding(),
    )


def test_a_network_hungrier_than_hct_does_not_slip_through(monkeypatch):
    """Its weights and moments alone take more than there is, for images so small that HCT would not notice."""
    monkeypatch.setattr("hct_lightning.training.memory_plan.available_bytes", lambda *_: 150 * 2**20)
    build = lambda: FromPixels(timm.create_model("resnet18", num_classes=4), (0.5,) * 3, (0.2,) * 3)  # noqa: E731
    with pytest.raises(ValueError, match=r"one image takes about 0\.2 GiB; 0\.1 GiB are available"):
        by_speed(partial(step_memory, build, channels=3, size=(128, 128), precision="32-true"), 2, 1, 128**2)


@pytest.mark.slow
def test_batches_that_wait_and_copies_of_augmentation_need_room(plan):
    image = 3 * 2**20
    assert plan(2, 2.3, memory="speed").micro_batches == 1
    assert plan(2, 2.3, memory="speed", feeding=Feeding(on_host=lambda images: 20)).micro_batches == 2
    assert (
        plan(2, 2.3, memory="speed", feeding=Feeding(augmenting=lambda images: 40 * images * image)).micro_batches == 2
    )


def test_blocks_are_mapped_where_there_is_no_room_for_gaps(plan):
    assert plan(1, 1.5, memory="speed").maps_blocks
    assert not plan(1, 5, memory="speed").maps_blocks


def test_what_helps_is_said_in_numbers():
    assert MemoryPlan(2, "speed").to_take_less(8, (1024, 1024)) == (
        "use micro_batches=4 or memory=low or data.resolution=768"
    )
    assert MemoryPlan(8, "low").to_take_less(8, (512, 384)) == "use data.resolution=[384,288]"
    assert (
        MemoryPlan(1, "low").to_take_less(1, (8000, 8000)) == "use memory=stream recipe=plain or data.resolution=5984"
    )


@pytest.mark.slow
def test_low_takes_a_third_and_is_chosen_where_speed_does_not_fit(peak, plan):
    assert peak(4, memory="low") - peak(2, memory="low") < 0.4 * (peak(4) - peak(2))
    assert plan(8, 8.5)[:2] == (1, "speed")
    assert plan(8, 7.5)[:2] == (1, "low")
    assert plan(8, 1.5, batch_size=2)[:2] == (4, "low")
    assert plan(8, 2.5, batch_size=2)[:2] == (4, "speed")
    low = plan(8, 1.5)
    assert low.memory == "low"
    assert 1 < low.micro_batches < 8
    assert plan(8, 0.9).memory == "low"


@pytest.mark.slow
def test_what_is_asked_for_is_done(plan):
    assert plan(8, 2.5, memory="speed")[:2] == (4, "speed")
    assert plan(8, 99, memory="low")[:2] == (1, "low")
    assert plan(8, 2.5, micro_batches=2)[:2] == (2, "low")
    assert plan(8, 4.5, micro_batches=2)[:2] == (2, "speed")
    assert plan(8, 1.5, micro_batches=1, memory="speed")[:2] == (1, "speed")
    with pytest.raises(ValueError, match="memory=slow: choose speed, auto, low or stream"):
        plan(8, 9, memory="slow")
    with pytest.raises(ValueError, match="micro_batches=0: give at least 1"):
        plan(8, 9, micro_batches=0)
    with pytest.raises(ValueError, match="micro_batches=few: give at least 1, or auto"):
        plan(8, 9, micro_batches="few")
    with pytest.raises(ValueError, match=r"one image takes about .* memory=low"):
        plan(8, 0.2)


@pytest.mark.slow
def test_from_the_command_line(cli, tiny, tmp_path):
    cli(
        *tiny,
        "memory=low",
        "export=[]",
        f"hydra.run.dir={tmp_path}/run",
        cwd=tmp_path,
    )
    said = "memory=low: the backward pass computes again"
    assert said in (tmp_path / "run/run.log").read_text()
    # Resumed on as many ranks it does as before, though there is memory enough for speed.
    done = cli(f"run={tmp_path}/run", "memory=auto", "trainer.max_epochs=3", cwd=tmp_path)
    assert said in done.stderr
    done = cli(*tiny, "memory=slow", cwd=tmp_path, status=1)
    assert "error: memory=slow: choose speed, auto, low or stream" in done.stderr


@pytest.mark.parametrize(("there_mib", "images"), [(400, 1), (4000, 2)])
def test_ranks_that_do_not_divide_a_batch_take_no_more_than_fits(monkeypatch, there_mib, images):
    """Shares of 2, 1 and 1: parts of one image each there can't be."""
    monkeypatch.setattr("hct_lightning.training.memory_plan.available_bytes", lambda *_: there_mib * 2**20)

    def step(*, batch: int, **_) -> types.SimpleNamespace:
        return types.SimpleNamespace(on=lambda device: batch * 200 * 2**20)

    if images == 2:
        assert by_speed(step, 4, 3, 2**20).micro_batches == 1
    else:
        with pytest.raises(
            ValueError, match=r"3 ranks can't share a global batch of 4 in 2 parts each.*trainer\.devices"
        ):
            by_speed(step, 4, 3, 2**20)
