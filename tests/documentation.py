"""What README.md and docs/*.md hold: their commands, snippets and options, for the tests in tests/docs."""

import re
import shlex
import subprocess
from pathlib import Path

from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from omegaconf import DictConfig

from hct_lightning.cli.groups import MoreConfigs
from hct_lightning.cli.recompose import is_override

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
HCT = ["python", "-m", "hct_lightning"]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)]+)\)")
# With an argument behind it, one of these makes a command of code that stands within a sentence.
PROGRAMS = ("python", "hct", "make", "pip", "sbatch", "srun", "torchrun", "apt-get", "opt_in_out", "source", "eval")
# What makes a command one of seconds. An option that the command itself gives stays as it stands.
SMALL = ("data.resolution=128", "data.batch_size=4", "trainer.max_epochs=1", "data.limit=12", "data.num_workers=1")


def blocks(language: str) -> list[str]:
    return [block for page in PAGES for kind, block in FENCE.findall(page.read_text()) if kind == language]


def spans() -> list[str]:
    """What stands in backquotes within sentences and tables."""
    return [span for page in PAGES for span in SPAN.findall(FENCE.sub("", page.read_text()))]


def commands() -> list[str]:
    """Each command of the pages once, without its comment."""
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    lines += [span for span in spans() if span.split()[0] in PROGRAMS and " " in span]
    return list(dict.fromkeys(shlex.join(words) for line in lines if (words := shlex.split(line, comments=True))))


COMMANDS = commands()
RUNS = [command for command in COMMANDS if shlex.split(command)[:3] == HCT]
OTHERS = [command for command in COMMANDS if command not in RUNS]
CPP = [command for command in OTHERS if "hct_predict" in command]


def composed(overrides: list[str]) -> DictConfig:
    Plugins.instance().register(MoreConfigs)
    with initialize_config_module("hct_lightning.conf", version_base="1.3"):
        return compose("config", overrides=overrides, return_hydra_config=True)


def run(words: list[str], environment: dict[str, str], folder: Path) -> str:
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_composes(args: list[str]) -> None:
    overrides = [arg for arg in args if is_override(arg)]
    composed([_first_point(arg) for arg in overrides])


def _first_point(override: str) -> str:
    """Of an override that is swept over the first value; any other as it is."""
    parsed = OverridesParser.create().parse_override(override)
    return f"{parsed.key_or_group}={next(parsed.sweep_string_iterator())}" if parsed.is_sweep_override() else override
