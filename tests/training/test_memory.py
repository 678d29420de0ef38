"""The memory of a step, predicted without taking it."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from hct_lightning.models import HCT, FromPixels
from hct_lightning.training.memory import Memory, StepMemory, step_memory
from hct_lightning.training.memory_plan import MemoryPlan, available_bytes, choose_memory, fewest_micro_batches


def build() -> FromPixels:
    return FromPixels(HCT(), (0.5,) * 3, (0.2,) * 3)


remembered = functools.cache(step_memory)


def step(batch: int, side: int = 1024, precision: str = "32-true", memory: Memory = "speed") -> StepMemory:
    return remembered(build, channels=3, size=(side, side), batch=batch, precision=precision, memory=memory)


def peak(*args, **options) -> int:
    return step(*args, **options).tensors


def test_grows_with_images_pixels_and_precision():
    one, two, four = peak(1), peak(2), peak(4)
    assert four - two == pytest.approx(2 * (two - one), rel=0.1)
    weights = 1_739_092 * 4
    assert one > 4 * weights  # weights, gradients and two moments at least
    assert peak(1, side=512) < one / 2
    assert peak(2, precision="bf16-mixed") < 0.75 * two


def test_takes_no_memory_itself():
    free = available_bytes(torch.device("cpu"), 1)
    assert peak(64, side=4000) > 2 * free  # a step that no machine of this size could hold


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


def plan(share: int, images: float, monkeypatch, **options) -> MemoryPlan:
    """The choice for `share` images where `images` of them fit with `speed` (the estimate is real)."""
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


def test_low_takes_a_third_and_is_chosen_where_speed_does_not_fit(monkeypatch):
    assert peak(4, memory="low") - peak(2, memory="low") < 0.4 * (peak(4) - peak(2))
    assert plan(8, 8.5, monkeypatch) == (1, "speed")
    assert plan(8, 7.5, monkeypatch) == (1, "low")
    assert plan(8, 1.5, monkeypatch, batch_size=2) == (4, "low")
    assert plan(8, 2.5, monkeypatch, batch_size=2) == (4, "speed")
    low = plan(8, 1.5, monkeypatch)
    assert low.memory == "low"
    assert 1 < low.micro_batches < 8
    assert plan(8, 0.9, monkeypatch).memory == "low"


def test_what_is_asked_for_is_done(monkeypatch):
    assert plan(8, 2.5, monkeypatch, memory="speed") == (4, "speed")
    assert plan(8, 99, monkeypatch, memory="low") == (1, "low")
    assert plan(8, 2.5, monkeypatch, micro_batches=2) == (2, "low")
    assert plan(8, 4.5, monkeypatch, micro_batches=2) == (2, "speed")
    assert plan(8, 1.5, monkeypatch, micro_batches=1, memory="speed") == (1, "speed")
    with pytest.raises(ValueError, match="memory=slow: choose speed, auto or low"):
        plan(8, 9, monkeypatch, memory="slow")
    with pytest.raises(ValueError, match="micro_batches=0: give at least 1"):
        plan(8, 9, monkeypatch, micro_batches=0)
    with pytest.raises(ValueError, match=r"one image takes about .* memory=low"):
        plan(8, 0.2, monkeypatch)


def test_the_tensors_alive_are_those_that_torch_counts():
    """Against torch's own tracker, which is slower and knows nothing of heaps."""
    network = build().to(memory_format=torch.channels_last)
    with FakeTensorMode() as fake:
        network._apply(fake.from_tensor)
        optimizer = torch.optim.Adam(network.parameters())
        tracker = MemTracker()
        tracker.track_external(network, optimizer)
        with tracker:
            for _ in range(2):
                images = torch.empty((2, 1024, 1024, 3), dtype=torch.uint8)
                logits = network(images.permute(0, 3, 1, 2))
                F.cross_entropy(logits, torch.zeros(2, dtype=torch.long)).backward()
                optimizer.step()
                optimizer.zero_grad()
                tracker.reset_mod_stats()
    theirs = max(sizes["Total"] for sizes in tracker.get_tracker_snapshot("peak").values())
    assert step(2).tensors == pytest.approx(theirs, rel=0.01)


def test_from_the_command_line(cli, tiny, tmp_path):
    cli(
        *tiny,
        "memory=low",
        "trainer.devices=2",
        "trainer.accelerator=cpu",
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
