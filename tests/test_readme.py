"""Every command in the README works: composed by default, really run (small) with the slow tests."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.core.plugins import Plugins

from hct_lightning.app import MoreConfigs, recompose

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    line.removeprefix("python -m hct_lightning").strip() for block in BLOCKS for line in block.strip().splitlines()
]
# What makes a command one of seconds; the command itself is run as it stands.
SMALL = (
    "data.resolution=128",
    "data.batch_size=4",
    "trainer.max_epochs=1",
    "data.limit=12",
    "data.num_workers=1",
)
SMALL_SCENES = ("data.scene_size=128", "data.train=24", "data.valid=10")


def arguments(command: str, home: Path, trained: Path) -> list[str]:
    """The command's arguments, its RUN and weights.ckpt being the small trained run's."""
    command = command.replace("RUN", str(trained))
    command = command.replace("weights.ckpt", str(trained / "checkpoints" / "best.ckpt"))
    return shlex.split(command)


@pytest.fixture(scope="module")
def home(tmp_path_factory, photos) -> Path:
    """A folder with what the README speaks of: photos and a list of them."""
    home = tmp_path_factory.mktemp("readme")
    for photo in photos.rglob("*.jpg"):  # thrice, so that every class also validates
        (home / "photos" / photo.parent.name).mkdir(parents=True, exist_ok=True)
        for copy in "abc":
            shutil.copy(photo, home / "photos" / photo.parent.name / f"{copy}-{photo.name}")
    rows = [f"photos/{p.parent.name}/a-{p.name},{i % 2}" for i, p in enumerate(sorted(photos.rglob("*.jpg")) * 3)]
    (home / "list.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    return home


def test_there_are_commands():
    assert len(COMMANDS) > 10


@pytest.mark.parametrize("command", COMMANDS)
def test_composes(command, home, tmp_path):
    run = tmp_path / "run"
    (run / ".hydra").mkdir(parents=True)
    (run / ".hydra" / "overrides.yaml").write_text("[]\n")
    overrides = [argument for argument in recompose(arguments(command, home, run)) if not argument.startswith("-")]
    # Of a sweep the first point.
    overrides = [argument if "[" in argument else argument.split(",")[0] for argument in overrides if argument != "job"]
    Plugins.instance().register(MoreConfigs)
    with initialize_config_module("hct_lightning.conf", version_base="1.3"):
        compose("config", overrides=overrides, return_hydra_config=True)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_runs(command, home, trained, cli, tmp_path):
    args = arguments(command, home, trained)
    if "benchmark=data" in args:
        args += ["benchmark.source_size=512", "benchmark.resolution=256", "benchmark.rounds=1"]
    elif "benchmark=step" in args:
        args += ["benchmark.resolution=256", "benchmark.rounds=1", "benchmark.warmup=1"]
    elif "benchmark=memory" in args:
        args += ["benchmark.resolution=256", "benchmark.rounds=1", "benchmark.warmup=1"]
        args += ["benchmark.settings=[[256,1,32-true,low]]"]
    elif "benchmark=scaling" in args:
        args += ["benchmark.resolution=128", "benchmark.batch_size=2", "benchmark.rounds=1"]
        args += ["benchmark.epochs=2", "benchmark.steps=1"]
    elif "task=plan" in args:
        args += ["plan.resolution=[256]", "plan.timed_at=[128,192]"]
    elif "benchmark=inference" in args:
        given = {arg.split("=")[0] for arg in args}
        small = (
            "benchmark.resolutions=[128]",
            "benchmark.batch_sizes=[1]",
            "benchmark.artifacts=[torchscript]",
            "benchmark.rounds=1",
            "benchmark.warmup=1",
        )
        args += [arg for arg in small if arg.split("=")[0] not in given]
    elif any(arg.startswith("run=") for arg in args):
        pass  # the run is small already
    else:
        given = {arg.split("=")[0] for arg in args}
        files = {"data=folder", "data=csv", "data=store"} & set(args)
        small = SMALL if files else SMALL + SMALL_SCENES
        if "data=store" in args and not (home / "store").exists():
            made_of = ("data=folder", "data.root=photos", "prepare.output=store")
            cli("task=prepare", *SMALL, *made_of, cwd=home)
        args = [arg for arg in small if arg.split("=")[0] not in given] + args
        if "trainer.max_epochs=30" in args:
            args[args.index("trainer.max_epochs=30")] = "trainer.max_epochs=1"
        if "+experiment=ddp4" in args:
            args += ["trainer.devices=2", "data.batch_size=1", "data.resolution=256"]
        flags = [arg for arg in args if arg == "-m"]  # Hydra takes no options between overrides
        args = [arg for arg in args if arg != "-m"]
        args = [*flags, f"hydra.run.dir={tmp_path}/run", f"hydra.sweep.dir={tmp_path}/sweep", *args]
    cli(*args, cwd=home)
