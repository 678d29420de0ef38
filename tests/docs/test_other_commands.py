"""Commands of other programs: make, sbatch, apt-get, a compiler.

Each is checked in the way that is possible here; one that no check knows fails.
"""

import importlib.metadata
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from documentation import COMMANDS, CPP, HCT, OTHERS, ROOT, assert_composes, composed, run


def check_make(words: list[str], environment: dict[str, str], folder: Path) -> None:
    """Its targets exist; what they would run is not run."""
    run(["make", "--dry-run", f"VENV={folder}/venv", *words[1:]], environment, ROOT)


def check_pip(words: list[str], environment: dict[str, str], folder: Path) -> None:
    """Our name or `-e .`, and extras that exist; the form for a checkout is there too."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert words[1] == "install"
    name, extra = re.fullmatch(r"(.+)\[(\w+)\]", words[-1]).groups()
    assert [*words[2:-1], name] in ([project["name"]], ["-e", "."])
    assert extra in project["optional-dependencies"]
    assert shlex.join(["pip", "install", "-e", f".[{extra}]"]) in COMMANDS


def check_sbatch(words: list[str], environment: dict[str, str], folder: Path) -> None:
    """The script exists and is bash, options stand before it, and those of the run behind it compose."""
    script = next(word for word in words if word.endswith(".sbatch"))
    at = words.index(script)
    assert all(word.startswith("--") for word in words[1:at])
    run(["bash", "-n", str(ROOT / script)], environment, folder)
    text = (ROOT / script).read_text()
    started = re.search(r"python -m hct_lightning (\S+=\S+)?", text)[1]
    assert_composes([*filter(None, [started]), *words[at + 1 :]])


def check_apt(words: list[str], environment: dict[str, str], folder: Path) -> None:
    """CI, which builds the C++ program on a clean machine, installs these packages."""
    assert words[1] == "install"
    assert set(words[2:]) <= set(re.findall(r"[\w+-]+", (ROOT / ".ci" / "run").read_text()))


def check_module(words: list[str], environment: dict[str, str], folder: Path) -> None:
    """The module is there and takes as many arguments."""
    usage = run([sys.executable, "-m", words[2], "--help"], environment, folder)
    assert f"python -m {words[2]}" in usage or words[2].rpartition(".")[2] in usage
    assert all(not word.startswith("-") for word in words[3:])
    assert len(words[3:]) <= len(re.findall(r"^  folder", usage, re.MULTILINE))


def check_workspace(words: list[str], environment: dict[str, str], folder: Path) -> None:
    """Its help names as many arguments, in this order."""
    usage = run([sys.executable, *words[1:3], "--help"], environment, folder)
    assert re.search(r"usage: python -m (\S+) \[-h\] (.*)", usage).groups() == (words[2], "entity project")
    assert len(words[3:]) == 2


def check_predict(words: list[str], environment: dict[str, str], folder: Path) -> None:
    """Its help has the options."""
    program = (ROOT / "hct_lightning" / "deploy" / "cpp" / "main.cpp").read_text()
    usage = re.search(r'kHelp = R"\((.*?)\)"', program, re.DOTALL)[1]
    assert {word for word in words if word.startswith("--")} <= set(re.findall(r"--\w+", usage))


def check_activate(words: list[str], environment: dict[str, str], folder: Path) -> None:
    assert words[1:] == [".venv/bin/activate"]
    assert "VENV ?= .venv\n" in (ROOT / "Makefile").read_text()


def check_completion(words: list[str], environment: dict[str, str], folder: Path) -> None:
    """Bash takes what `hct` prints."""
    program, *args = re.fullmatch(r"\$\((.*)\)", words[1])[1].split()
    assert program in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    (folder / "completion.sh").write_text(run([sys.executable, *HCT[1:], *args], environment, folder))
    shell = run(["bash", "-c", ". ./completion.sh && complete -p"], environment, folder)
    assert "hydra_bash_completion" in shell


def check_curl(words: list[str], environment: dict[str, str], folder: Path) -> None:
    """It asks the address, the port and the path that are there by default; what it asks: tests/tasks/test_serve.py."""
    serve = composed(["task=serve", "serve.token=null"]).serve
    assert words[-1] == f"http://{serve.host}:{serve.port}/predict"


def check_export(words: list[str], environment: dict[str, str], folder: Path) -> None:
    """The variable is one that conf/ reads."""
    name = words[1].partition("=")[0]
    assert any(f"oc.env:{name}," in file.read_text() for file in (ROOT / "conf").rglob("*.yaml"))


def check_opt_out(words: list[str], environment: dict[str, str], folder: Path) -> None:
    """OpenVINO's packages bring the program."""
    assert importlib.metadata.entry_points(group="console_scripts", name=words[0])


CHECKS = {
    "make": check_make,
    "pip": check_pip,
    "sbatch": check_sbatch,
    "apt-get": check_apt,
    "python -m hct_lightning.slurm": check_module,
    "python -m hct_lightning.data.sources.pages": check_module,
    "python -m hct_lightning.deploy.build_cpp": check_module,
    "python -m hct_lightning.report.wandb_workspace": check_workspace,
    "build/cpp/hct_predict": check_predict,
    "source": check_activate,
    "eval": check_completion,
    "curl": check_curl,
    "export": check_export,
    "opt_in_out": check_opt_out,
}


@pytest.mark.parametrize("command", OTHERS, ids=str)
def test_another_programs_command(command, environment, tmp_path):
    words = shlex.split(command)
    check = CHECKS.get(shlex.join(words[:3]) if words[0] == "python" else words[0])
    assert check, "no check in this file knows this command"
    check(words, environment, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_cpp_program_is_built_and_runs(home, trained, cli, environment):
    """By the commands of the page: those that build, then those that predict."""
    build = subprocess.run(
        [sys.executable, "-m", "hct_lightning.deploy.build_cpp"],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    if build.returncode and os.environ.get("HCT_CPP") != "required":
        pytest.skip(build.stderr)
    cli("task=export", f"run={trained}", "export=[openvino_int8]", cwd=home)
    for command in CPP:
        words = shlex.split(re.sub(r"\bRUN\b", str(trained), command))
        assert '"class"' in run(words, environment, home)
