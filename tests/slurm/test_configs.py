"""The `slurm` configurations compose, and what they make of their options."""

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
