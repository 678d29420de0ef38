"""Every configuration that ships composes, resolves and names only what is allowed."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from hct_lightning.cli.allowed import check_targets
from hct_lightning.data.reading.geometry import padding

CONF = Path(__file__).parents[1] / "conf"
GROUPS = [p.name for p in CONF.iterdir() if p.is_dir() and p.name not in ("hydra", "local")]
OPTIONS = [
    (group, file.stem)
    for group in sorted(GROUPS)
    for file in sorted((CONF / group).glob("*.yaml"))
    if not file.stem.startswith("_")
]


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_composes(group, option, tmp_path):
    override = f"{'+' if group == 'experiment' else ''}{group}={option}"
    with initialize_config_module("hct_lightning.conf", version_base="1.3"):
        cfg = compose(
            "config",
            overrides=[override, f"hydra.run.dir={tmp_path}"],
            return_hydra_config=True,
        )
    cfg.hydra.runtime.output_dir = str(tmp_path)
    from hydra.core.hydra_config import HydraConfig

    HydraConfig.instance().set_config(cfg)
    OmegaConf.set_struct(cfg, False)
    del cfg["hydra"]
    check_targets(OmegaConf.to_container(cfg, resolve=True))


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_says_what_it_is_in_its_first_line(group, option):
    lines = (CONF / group / f"{option}.yaml").read_text().splitlines()
    first = lines[1] if lines[0].startswith("# @package") else lines[0]
    assert first.startswith("# ")
    assert len(first) > 15


@pytest.mark.parametrize("file", sorted((CONF.parent / "sweeps").glob("*.yaml")), ids=lambda f: f.stem)
def test_sweeps_compose(cli, tmp_path, file):
    done = cli(f"+sweeps={file.stem}", "--cfg", "all", cwd=tmp_path)
    assert (
        "data.resolution: 256,512,1024" in done.stdout or "task: search" in done.stdout or "model: hct," in done.stdout
    )
    assert file.read_text().splitlines()[1].startswith("# ")


def test_ddp4_without_data_of_ones_own_sees_scenes_that_fill_its_images():
    with initialize_config_module("hct_lightning.conf", version_base="1.3"):
        scenes = compose("config", overrides=["+experiment=ddp4"]).data
        own = compose("config", overrides=["+experiment=ddp4", "data=folder"]).data
    assert scenes.scene_size == scenes.resolution == own.resolution == 4000
    size = (scenes.scene_size,) * 2
    assert padding(size, (scenes.resolution,) * 2, scenes.geometry) == 0
