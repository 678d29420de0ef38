"""The command line: it answers at once, and runs refer to earlier runs."""

import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from hct_lightning.app import recompose
from hct_lightning.cli.allowed import check_targets

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("args", [("--help",), ("--cfg", "job"), ("data=folder", "--cfg", "job")])
def test_answers_before_anything_heavy_is_imported(cli, tmp_path, args):
    code = (
        "import sys; sys.argv[1:] = sys.stdin.read().split()\n"
        "import atexit; heavy = {'torch', 'lightning', 'timm', 'wandb', 'numpy'}\n"
        "atexit.register(lambda: print('HEAVY', sorted(heavy & set(sys.modules))))\n"
        "from hct_lightning.app import main; main()"
    )
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=" ".join(args),
        cwd=tmp_path,
        text=True,
        capture_output=True,
        check=True,
    )
    assert "HEAVY []" in done.stdout
    assert time.monotonic() - started < 20  # two seconds on a quiet machine
    assert not list(tmp_path.iterdir())


def test_help_shows_usage_and_groups(cli, tmp_path):
    out = cli("--help", cwd=tmp_path).stdout
    for part in ("Usage:", "task=predict", "optim: adam, adamw, sgd", "--cfg job"):
        assert part in out


def test_console_script_completes(environment, tmp_path):
    hct = Path(sys.executable).parent / "hct"
    done = subprocess.run(
        [hct, "-sc", "query=bash"],
        cwd=tmp_path,
        text=True,
        capture_output=True,
        check=True,
        env=environment | {"COMP_LINE": "hct optim=ad", "COMP_POINT": "12"},
    )
    assert set(done.stdout.split()) == {"optim=adam", "optim=adamw"}


def test_machine_local_configuration_is_used(cli, environment, tmp_path):
    local = tmp_path / "hct_lightning" / "local"
    local.mkdir(parents=True)
    (local / "default.yaml").write_text("# @package _global_\ndata:\n  num_workers: 7\n")
    done = subprocess.run(
        [sys.executable, "-m", "hct_lightning", "--cfg", "job"],
        cwd=tmp_path,
        text=True,
        capture_output=True,
        check=True,
        env=environment | {"XDG_CONFIG_HOME": str(tmp_path)},
    )
    assert "num_workers: 7" in done.stdout


def test_wheel_has_one_top_level_name_and_runs_from_anywhere(environment, tmp_path):
    pytest.importorskip("setuptools")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, ROOT], check=True)
    wheel = next(tmp_path.glob("*.whl"))
    names = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {n for n in names if not n.endswith(".dist-info")} == {"hct_lightning"}
    target = tmp_path / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", target, wheel], check=True)
    code = "import hct_lightning, hct_lightning.callbacks.reseed; print(hct_lightning.__file__)"
    env = environment | {"PYTHONPATH": str(target)}
    for command in (
        [sys.executable, "-c", code],
        [sys.executable, "-m", "hct_lightning", "--help"],
    ):
        done = subprocess.run(command, cwd=tmp_path, env=env, text=True, capture_output=True, check=True)
    assert "data: csv, folder, liu4k, scenes" in done.stdout.replace("_base, ", "")


@pytest.fixture
def earlier(tmp_path) -> Path:
    hydra = tmp_path / "run" / ".hydra"
    hydra.mkdir(parents=True)
    (hydra / "overrides.yaml").write_text(
        "- data=folder\n- data.root=/photos\n- data.resolution=512\n- +experiment=mine\n- seed=3\n"
        "- task=fit\n- hydra.run.dir=elsewhere\n"
    )
    return tmp_path / "run"


def test_recompose_takes_the_runs_overrides_and_lets_the_command_line_win(earlier):
    args = recompose(["task=validate", f"run={earlier}", "seed=4"])
    assert args[:4] == [
        "data=folder",
        "data.root=/photos",
        "data.resolution=512",
        "+experiment=mine",
    ]
    assert {"task=validate", "seed=4", f'run="{earlier}"', f'hydra.run.dir="{earlier}"'} <= set(args)
    assert not {"seed=3", "task=fit", "hydra.run.dir=elsewhere"} & set(args)
    assert recompose(args) == args  # ranks that are started with the expanded line expand it again


def test_recompose_reads_what_a_run_recorded_by_an_earlier_name(earlier):
    recorded = earlier / ".hydra" / "overrides.yaml"
    recorded.write_text(recorded.read_text() + "- trainer.accumulate_grad_batches=3\n")
    args = recompose([f"run={earlier}"])
    assert "micro_batches=3" in args
    assert not [arg for arg in args if "accumulate_grad_batches" in arg]
    args = recompose([f"run={earlier}", "micro_batches=2"])
    assert [arg for arg in args if "micro_batches" in arg] == ["micro_batches=2"]


def test_recompose_with_other_data_keeps_what_all_data_sets_share(earlier):
    args = recompose([f"run={earlier}", "data=scenes"])
    assert "data.resolution=512" in args
    assert "data=folder" not in args
    assert "data.root=/photos" in args  # shared, too: scenes have a root


def test_recompose_with_other_artifacts_keeps_what_all_exports_share(earlier):
    recorded = earlier / ".hydra" / "overrides.yaml"
    mine = ["export.evaluation=7", "export.openvino_int8.percent=50"]
    recorded.write_text(recorded.read_text() + "".join(f"- {override}\n" for override in mine))
    args = recompose(["task=export", f"run={earlier}", "export=[torchscript]"])
    assert mine[0] in args
    assert mine[1] not in args


def test_recompose_finds_the_run_of_a_checkpoint_but_not_to_fine_tune(earlier):
    args = recompose(["task=predict", f"ckpt={earlier}/checkpoints/best.ckpt"])
    assert f'run="{earlier}"' in args
    fine_tune = [f"ckpt={earlier}/checkpoints/best.ckpt"]
    assert recompose(fine_tune) == fine_tune


class Mine:
    """A user's own class."""


def test_targets_from_elsewhere_are_refused_wherever_they_hide():
    check_targets({"a": [{"_target_": "torch.optim.Adam"}, {"_target_": "timm.create_model"}]})
    for target in ("os.system", "builtins.eval", "lightning_evil.x", "hct_lightning.app.os.system"):
        with pytest.raises(ValueError, match=r"a\[0\]\.b\._target_=" + target):
            check_targets({"a": [{"b": {"_target_": target}}]})
    with pytest.raises(ValueError, match=r"os\.system"):
        check_targets({"x": {"_target_": "hydra.utils.get_method", "path": "os.system"}})
    with pytest.raises(ValueError, match="can't be found"):
        check_targets({"x": {"_target_": "torch.optim.Adamm"}})


def test_targets_of_users_are_welcome_when_they_say_so():
    node = {"_target_": "collections.Counter"}
    with pytest.raises(ValueError, match=r"safety\.allow=\[collections\]"):
        check_targets(node)
    check_targets(node, allow=["collections"])
