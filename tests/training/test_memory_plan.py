"""How a rank takes its share of a global batch within the memory there is."""

from collections.abc import Callable

import pytest
import torch

from hct_lightning.training.memory_plan import MemoryPlan, available_bytes, choose_memory, fewest_micro_batches


def test_fewest_parts_that_fit():
    def linear(batch: int) -> int:
        return 100 + 50 * batch

    assert fewest_micro_batches(linear, 16, 10_000) == 1
    assert fewest_micro_batches(linear, 16, 600, reserve=0.0) == 2  # 10 fit: 100 + 500
    assert fewest_micro_batches(linear, 16, 150, reserve=0.0) == 16
    with pytest.raises(ValueError, match=r"one image takes about .* data\.resolution"):
        fewest_micro_batches(linear, 16, 149, reserve=0.0)


def test_available_memory_is_shared_by_the_ranks_of_a_machine():
    alone, shared = (available_bytes(torch.device("cpu"), n) for n in (1, 4))
    assert shared == pytest.approx(alone / 4, rel=0.1)


@pytest.fixture
def plan(step, remembered, build, monkeypatch) -> Callable[..., MemoryPlan]:
    """The choice for `share` images where `images` of them fit with `speed` (the estimate is real)."""

    def plan(share: int, images: float, **options) -> MemoryPlan:
        options = {"memory": "auto", "micro_batches": "auto", "batch_size": share} | options
        one, two = step(1).resident, step(2).resident
        available = int((one + (images - 1) * (two - one)) / 0.8)
        monkeypatch.setattr("hct_lightning.training.memory_plan.available_bytes", lambda *_: available)
        monkeypatch.setattr("hct_lightning.training.memory_plan.step_memory", remembered)
        return choose_memory(
            torch.device("cpu"),
            global_batch=share,
            ranks=1,
            build=build,
            channels=3,
            size=(1024, 1024),
            ranks_here=1,
            precision="32-true",
            **options,
        )

    return plan


def test_low_takes_a_third_and_is_chosen_where_speed_does_not_fit(peak, plan):
    assert peak(4, memory="low") - peak(2, memory="low") < 0.4 * (peak(4) - peak(2))
    assert plan(8, 8.5) == (1, "speed")
    assert plan(8, 7.5) == (1, "low")
    assert plan(8, 1.5, batch_size=2) == (4, "low")
    assert plan(8, 2.5, batch_size=2) == (4, "speed")
    low = plan(8, 1.5)
    assert low.memory == "low"
    assert 1 < low.micro_batches < 8
    assert plan(8, 0.9).memory == "low"


def test_what_is_asked_for_is_done(plan):
    assert plan(8, 2.5, memory="speed") == (4, "speed")
    assert plan(8, 99, memory="low") == (1, "low")
    assert plan(8, 2.5, micro_batches=2) == (2, "low")
    assert plan(8, 4.5, micro_batches=2) == (2, "speed")
    assert plan(8, 1.5, micro_batches=1, memory="speed") == (1, "speed")
    with pytest.raises(ValueError, match="memory=slow: choose speed, auto or low"):
        plan(8, 9, memory="slow")
    with pytest.raises(ValueError, match="micro_batches=0: give at least 1"):
        plan(8, 9, micro_batches=0)
    with pytest.raises(ValueError, match="micro_batches=few: give at least 1, or auto"):
        plan(8, 9, micro_batches="few")
    with pytest.raises(ValueError, match=r"one image takes about .* memory=low"):
        plan(8, 0.2)


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
    assert "error: memory=slow: choose speed, auto or low" in done.stderr
