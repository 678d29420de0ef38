"""The command line answers at once, from anywhere."""

import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from hct_lightning import app

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("args", [("--help",), ("--cfg", "job"), ("data=folder", "--cfg", "job")])
def test_answers_before_anything_heavy_is_imported(cli, tmp_path, args):
    code = (
        "import sys; sys.argv[1:] = sys.stdin.read().split()\n"
        "import atexit; heavy = {'torch', 'lightning', 'timm', 'wandb', 'numpy', 'cv2'}\n"
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
    for part in ("Usage:", "task=predict", "optim: adam, adamw, muon, sgd", "--cfg job"):
        assert part in out


def test_a_benchmark_needs_its_task(cli, tmp_path):
    """Else a training would begin that nobody has asked for."""
    err = cli("benchmark=step", cwd=tmp_path, status=1).stderr
    assert "benchmark=... is measured by task=benchmark, and this is task=fit; give task=benchmark" in err
    assert "Traceback" not in err


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


@pytest.mark.slow
def test_no_process_takes_modules_of_the_folder_where_it_runs(environment, tmp_path):
    """Where a stranger's file may lie, as in a run's folder that was downloaded. A sweep starts more processes."""
    (tmp_path / "hydra.py").write_text("open('canary', 'w')\n")
    hct = Path(sys.executable).parent / "hct"
    options = ("-m", "data=folder", "data.root=nowhere", "seed=1", "fit.report=false", "hydra.sweep.dir=sweep")
    done = subprocess.run([hct, *options], cwd=tmp_path, text=True, capture_output=True, env=environment)
    assert "there is no" in done.stderr
    assert not (tmp_path / "canary").exists()


@pytest.mark.slow
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
    assert "data: csv, folder, liu4k, needles, pages, pairs, scenes" in done.stdout.replace("_base, ", "")


def test_windows_is_told_where_to_go(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(SystemExit, match="Windows is not supported; run this in WSL"):
        app.main()
