"""What would fit, through the real command line."""

import json
import shlex

import pytest
from hydra import compose, initialize_config_module


@pytest.mark.slow
def test_table_file_and_a_command_that_composes(cli, tmp_path):
    done = cli(
        "task=plan",
        "plan.resolution=[256,[512,384]]",
        "plan.batch_size=[1,4]",
        "plan.precision=[32-true]",
        "plan.timed_at=[128,192]",
        "trainer.max_epochs=3",
        "plan.workers=4",
        "plan.delays={distribution: fixed, slower: {3: 3}}",
        f"hydra.run.dir={tmp_path}/run",
        cwd=tmp_path,
    )
    result = json.loads((tmp_path / "run" / "plan" / "plan.json").read_text())
    points = {(str(p["resolution"]), p["batch_size"], p["memory"]): p for p in result["points"]}
    assert len(points) == 8
    for point in points.values():
        assert point["fits_gb"] == [11, 24, 48, 80]
        assert 0.02 < point["cpu_gib"] < 2
        assert 0.02 < point["gpu_gib"] < 2
    speed, low = (points["[512, 384]", 4, memory]["gpu_gib"] for memory in ("speed", "low"))
    assert low < 0.7 * speed
    assert all(point["hours"] > 0 for point in points.values())
    assert "scaled by pixels from real steps at 128 and 192 px" in done.stdout
    *_, command = done.stdout.strip().splitlines()
    assert command == result["command"]
    assert "data.resolution=[512,384] data.batch_size=4" in command
    assert command.endswith("trainer.devices=4 gradients=k_sync gradients.k=3")
    assert len(result["gradients"]) == 4 * 4
    with initialize_config_module("hct_lightning.conf", version_base="1.3"):
        compose("config", overrides=shlex.split(command.removeprefix("python -m hct_lightning ")))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("plan.memory=[auto]", r"plan\.memory=auto: choose from speed, low"),
        ("plan.precision=[bf17]", r"plan\.precision=bf17: choose from 32-true"),
        ("plan.timed_at=[512]", r"plan\.timed_at=\[512\]: give two sizes"),
        ("plan.batch_size=[0]", r"plan\.batch_size=0: give at least 1"),
        ("plan.workers=0", r"plan\.workers=0: give at least 1"),
        ("plan.delays.mean_s=-1", r"plan\.delays\.mean_s=-1"),
    ],
)
def test_refuses(option, message, tmp_path):
    from hct_lightning.tasks import plan

    with initialize_config_module("hct_lightning.conf", version_base="1.3"):
        cfg = compose("config", overrides=["task=plan", option])
    with pytest.raises(ValueError, match=message):
        plan.main(cfg, tmp_path)


def test_a_step_takes_a_fixed_time_and_some_for_each_pixel():
    from hct_lightning.tasks.plan import StepTime

    time = StepTime(fixed_s=0.5, pixel_s=0.001)
    assert time.step_s(2, (10, 20)) == pytest.approx(0.9)
