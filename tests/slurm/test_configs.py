"""The `slurm` configurations compose, and what they make of their options."""

import os
import subprocess
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.core.plugins import Plugins

from hct_lightning.app import MoreConfigs

FILES = sorted(Path(__file__).parents[2].glob("slurm/[a-z]*.yaml"))


def launcher(*overrides: str):
    Plugins.instance().register(MoreConfigs)
    with initialize_config_module("hct_lightning.conf", version_base="1.3"):
        cfg = compose("config", overrides=list(overrides), return_hydra_config=True)
    return cfg.hydra.launcher


def test_a_node_is_the_papers_request():
    asked = launcher("+experiment=ddp4", "+slurm=node", "slurm.gres=gpu:rtx8000:4")
    assert (asked.nodes, asked.tasks_per_node, asked.gres) == (1, 4, "gpu:rtx8000:4")
    assert asked.tasks_per_node * asked.cpus_per_task == 16
    assert asked.mem_gb == 128


def test_nodes():
    asked = launcher("+experiment=ddp4", "+slurm=nodes", "trainer.num_nodes=3")
    assert (asked.nodes, asked.tasks_per_node, asked.gres) == (3, 4, "gpu:4")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_configuration(file):
    assert launcher(f"+slurm={file.stem}")._target_.endswith("SlurmLauncher")
    assert file.read_text().splitlines()[1].startswith("# ")


def test_a_line_that_is_not_there_is_no_run_of_the_defaults(tmp_path):
    (tmp_path / "points.txt").write_text("seed=1 optim=sgd\n\n")
    (tmp_path / "srun").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "srun").chmod(0o755)
    script = str(Path(__file__).parents[2] / "slurm" / "points.sbatch")

    def submitted(task: int) -> subprocess.CompletedProcess:
        job = {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "4"}
        environment = os.environ | job | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        command = ["bash", script, "points.txt"]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    assert submitted(0).stdout.endswith("hct_lightning seed=1 optim=sgd hydra.run.dir=outputs/slurm-7/0\n")
    for task in (1, 2):
        done = submitted(task)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"points.txt has no options in line {task + 1}\n"


def test_an_earlier_run_goes_on_in_its_own_folder(tmp_path):
    (tmp_path / "srun").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "srun").chmod(0o755)
    job = {"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "4", "SLURM_NTASKS_PER_NODE": "4", "SLURM_JOB_NUM_NODES": "1"}
    script = str(Path(__file__).parents[2] / "slurm" / "ddp4.sbatch")

    def submitted(*options: str) -> str:
        environment = os.environ | job | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        return subprocess.run(["bash", script, *options], env=environment, capture_output=True, text=True).stdout

    assert submitted("data=folder").endswith("hydra.run.dir=outputs/slurm-7 data=folder\n")
    assert submitted("run=outputs/a b", "seed=1").endswith("trainer.num_nodes=1 run=outputs/a b seed=1\n")
