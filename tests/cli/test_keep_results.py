"""No run's results are replaced by those of another one."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from hct_lightning.cli.keep_results import KeepResults, points


def digests(folder: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


def test_a_new_run_in_the_folder_of_another_one_is_refused_before_anything_is_written(cli, tiny, trained, tmp_path):
    before = digests(trained)
    done = cli(*tiny, f"hydra.run.dir={trained}", cwd=tmp_path, status=1)
    assert done.stderr.splitlines() == [
        f"error: {trained} is the folder of an earlier run, whose best.ckpt, last.ckpt a new one would replace; "
        f"go on with run={trained}, or begin in another folder: hydra.run.dir, of a sweep hydra.sweep.dir"
    ]
    assert digests(trained) == before


def test_a_sweep_with_other_options_is_refused_before_anything_is_written(cli, tmp_path):
    begun(tmp_path / "sweep" / "1", ["seed=2"])
    before = digests(tmp_path)
    done = cli("-m", "seed=1,3", f"hydra.sweep.dir={tmp_path}/sweep", cwd=tmp_path, status=1)
    assert done.stderr.startswith(f"error: {tmp_path}/sweep/1 is the folder of an earlier run, whose last.ckpt")
    assert digests(tmp_path) == before


def begun(folder: Path, overrides: list[str]) -> None:
    """The folder of a point that has left a checkpoint."""
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "last.ckpt").touch()
    (folder / "run.json").write_text(json.dumps({"overrides": overrides}))


def config(folder: Path, *overrides: str, **options: Any) -> DictConfig:
    hydra = {
        "output_subdir": ".hydra",
        "run": {"dir": str(folder)},
        "overrides": {"task": list(overrides)},
        "sweep": {"dir": str(folder), "subdir": "${hydra.job.num}"},
        "sweeper": {"params": {"optim.lr": "0.1,0.2"}},
    }
    return OmegaConf.create({"task": "fit", "run": None, "hydra": hydra} | options)


def test_what_is_the_same_run_again_begins(tmp_path, monkeypatch):
    begun(tmp_path, ["seed=2"])
    hook = KeepResults()
    with pytest.raises(SystemExit, match="a new one would replace"):
        hook.on_run_start(config(tmp_path, "seed=3"))
    hook.on_run_start(config(tmp_path, "seed=2"))  # a point that was killed and has no last checkpoint
    hook.on_run_start(config(tmp_path, "seed=3", run=str(tmp_path)))
    other = config(tmp_path, "seed=3", task="validate")
    hook.on_run_start(other)
    assert other.hydra.output_subdir == ".hydra"
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "overrides.yaml").write_text("- seed=2\n")
    hook.on_run_start(other)
    assert other.hydra.output_subdir is None  # what the run began with stays
    hook.on_run_start(config(tmp_path / "another", "seed=3"))
    with monkeypatch.context() as patched:
        patched.setenv("SLURM_RESTART_COUNT", "1")
        hook.on_run_start(config(tmp_path, "seed=3"))
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit, match=r"^1$"):  # rank 0 says why
        hook.on_run_start(config(tmp_path, "seed=3"))


def test_the_points_of_a_sweep_are_hydras(tmp_path):
    assert points(config(tmp_path, "a='x y',[1,2]", "+b=3", "~c")) == [
        [f"optim.lr={rate}", f"a={a}", "+b=3", "~c=null"] for rate in ("0.1", "0.2") for a in ("'x y'", "[1,2]")
    ]
    begun(tmp_path / "3", ["optim.lr=0.2", "seed=2"])
    hook = KeepResults()
    hook.on_multirun_start(config(tmp_path, "seed=1,2"))
    hook.on_multirun_start(config(tmp_path, "seed=glob(*)"))  # only Hydra itself knows those
    with pytest.raises(SystemExit, match="/3 is the folder of an earlier run"):
        hook.on_multirun_start(config(tmp_path, "seed=1,2", "data.batch_size=4"))
