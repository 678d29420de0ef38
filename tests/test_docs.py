"""What README.md and docs/*.md say holds: commands, snippets, options and links.

Commands compose by default and really run, small, with the slow tests. One that needs something special (make, sbatch,
apt-get, a compiler) is checked in the way that is possible here; one that no check knows fails.
"""

import ast
import importlib.metadata
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.core.plugins import Plugins
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from hct_lightning.cli.groups import MoreConfigs
from hct_lightning.cli.recompose import is_override, key_of, recompose

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
HCT = ["python", "-m", "hct_lightning"]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)]+)\)")
# With an argument behind it, one of these makes a command of code that stands within a sentence.
PROGRAMS = ("python", "hct", "make", "pip", "sbatch", "srun", "torchrun", "apt-get", "opt_in_out", "source", "eval")


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


# --- Pages


def test_there_are_commands():
    assert len(RUNS) > 30
    assert len(OTHERS) > 10


def test_the_readme_is_a_page():
    assert len(PAGES[0].read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_stands_in_fences_of_a_known_language(page):
    text = page.read_text()
    assert {kind for kind, _ in FENCE.findall(text)} <= {"bash", "python", "yaml", "text"}
    assert "```" not in FENCE.sub("", text)
    assert not re.findall(r"^(?: {4}|\t).*", FENCE.sub("", text), re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in LINK.findall(page.read_text()):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_linked_from_the_readme():
    linked = {link.partition("#")[0] for link in LINK.findall(PAGES[0].read_text())}
    assert {f"docs/{page.name}" for page in PAGES[1:]} <= linked


def test_the_design_shows_every_room():
    tree = re.search(r"```text\n(conf/.*?)```", (ROOT / "docs" / "design.md").read_text(), re.DOTALL)[1]
    shown = set(re.findall(r"^ *([\w.]+/?)(?: |$)", tree, re.MULTILINE))
    package = ROOT / "hct_lightning"
    rooms = {file.parent.relative_to(package) for file in package.rglob("*.py")} - {Path()}
    # A benchmark of several files is no room.
    assert {f"{room.name}/" for room in rooms if room.parent.name != "benchmarks"} <= shown
    for name in shown:
        assert [*ROOT.glob(name), *package.rglob(name)], name


def test_the_design_shows_the_floors_that_are_guarded():
    block = re.search(r"## Floors.*?```text\n(.*?)```", (ROOT / "docs" / "design.md").read_text(), re.DOTALL)[1]
    guarded = ast.parse((ROOT / "tests" / "test_architecture.py").read_text()).body
    floors = next(n.value for n in guarded if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "FLOORS")
    assert [set(line.split()) for line in reversed(block.splitlines())] == list(ast.literal_eval(floors))


# --- Options


def composed(overrides: list[str]) -> DictConfig:
    Plugins.instance().register(MoreConfigs)
    with initialize_config_module("hct_lightning.conf", version_base="1.3"):
        return compose("config", overrides=overrides, return_hydra_config=True)


def test_options_that_are_named_exist():
    """`data.limit`, `export.openvino_int8.percent=50`: of a group, with or without a value."""
    files = {group: sorted((ROOT / "conf" / group).glob("[a-z]*.yaml")) for group in ("task", "data", "benchmark")}
    every = [f"{group}=[{','.join(file.stem for file in found)}]" for group, found in files.items()]
    every += ["model=[hct,timm]", "logger=[wandb,tensorboard]", "export=[torchscript_int8,openvino_int8]"]
    every += ["callbacks=averaged"]
    config = OmegaConf.to_container(composed([*every, "+slurm=nodes"]))

    def has(options: object, path: list[str]) -> bool:
        return not path or (isinstance(options, dict) and path[0] in options and has(options[path[0]], path[1:]))

    named = {m[1] for span in spans() if (m := re.fullmatch(r"([a-z]\w*(?:\.\w+)+)(=.*)?", span))}
    named = {
        name
        for name in named
        if isinstance(config.get(name.split(".")[0]), dict) and not name.endswith((".json", ".safetensors"))
    }
    assert len(named) > 20
    assert not [name for name in sorted(named) if not has(config, name.split("."))]


# --- Commands: `python -m hct_lightning`


def arguments(command: str, run: Path) -> list[str]:
    """A command's arguments: earlier runs, sweeps and weights that it names are those of `run`."""
    text = re.sub(r"\b(RUN|OTHER)\b|multirun/\.\.\.", str(run), command)
    text = text.replace("weights.ckpt", str(run / "checkpoints" / "best.ckpt"))
    return shlex.split(text)[len(HCT) :]


def assert_composes(args: list[str]) -> None:
    overrides = [arg for arg in args if is_override(arg)]
    # Of a sweep the first point.
    composed([arg if "[" in arg else arg.split(",")[0] for arg in overrides])


@pytest.mark.parametrize("command", RUNS, ids=str)
def test_composes(command, tmp_path):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "overrides.yaml").write_text("[]\n")
    assert_composes(recompose(arguments(command, tmp_path)))


# What makes a command one of seconds. An option that the command itself gives stays as it stands.
SMALL = ("data.resolution=128", "data.batch_size=4", "trainer.max_epochs=1", "data.limit=12", "data.num_workers=1")
SMALL_SCENES = ("data.scene_size=128", "data.train=24", "data.valid=10")
SMALL_FOUR = ("trainer.devices=2", "data.batch_size=1", "data.resolution=256")
SMALL_TASKS = {
    "benchmark=augment": (
        "benchmark.resolution=256",
        "benchmark.batch_size=2",
        "benchmark.rounds=1",
        "benchmark.warmup=1",
        "~benchmark.kinds",
        "+benchmark.kinds={tones: {contrast: 0.2}, mixup: {mixup: 0.2}}",
    ),
    "benchmark=data": ("benchmark.source_size=512", "benchmark.resolution=256", "benchmark.rounds=1"),
    "benchmark=serve": (
        "benchmark.resolution=128",
        "benchmark.images=4",
        "benchmark.clients=2",
        "benchmark.rounds=1",
        "benchmark.warmup=1",
    ),
    "benchmark=step": ("benchmark.resolution=256", "benchmark.rounds=1", "benchmark.warmup=1"),
    "benchmark=memory": (
        "benchmark.resolution=256",
        "benchmark.settings=[[256,1,32-true,low]]",
        "benchmark.rounds=1",
        "benchmark.warmup=1",
    ),
    "benchmark=gigapixel": (
        f"benchmark.photo={ROOT}/tests/photos/Plant/blue-periwinkle.jpg",
        "benchmark.resolution=256",
        "benchmark.file_resolution=512",
        "benchmark.huge_resolution=512",
        "benchmark.train_resolution=512",
        "benchmark.tile=256",
        "benchmark.rounds=1",
    ),
    "benchmark=memory_grid": ("benchmark.resolutions=[256]", "benchmark.batch_sizes=[1]", "benchmark.points=2"),
    "benchmark=scaling": (
        "benchmark.resolution=128",
        "benchmark.batch_size=2",
        "benchmark.rounds=1",
        "benchmark.epochs=2",
        "benchmark.steps=1",
    ),
    "benchmark=inference": (
        "benchmark.resolutions=[128]",
        "benchmark.batch_sizes=[1]",
        "benchmark.artifacts=[torchscript]",
        "benchmark.rounds=1",
        "benchmark.warmup=1",
    ),
    "task=explain": ("explain.tile=64",),
    "task=plan": ("plan.resolution=[256]", "plan.timed_at=[128,192]"),
}
SHORTER = {
    "explain.resolution=2048": "explain.resolution=256",
    "plan.resolution=[2048,4000]": "plan.resolution=[256]",
    "plan.resolution=[24000]": "plan.resolution=[256]",
    "trainer.max_epochs=30": "trainer.max_epochs=1",
    "trainer.max_time=00:10:00:00": "trainer.max_time=00:00:00:03",
    "trainer.max_time=00:02:00:00": "trainer.max_time=00:00:00:03",
}


def small(args: list[str], folder: Path) -> list[str]:
    """The command with what makes it small; flags first, for Hydra takes none between overrides."""
    args = [SHORTER.get(arg, arg) for arg in args]
    given = {key_of(arg) for arg in args if is_override(arg)}
    if options := [options for name, options in SMALL_TASKS.items() if name in args]:
        added = options[0]
    elif "run" in given:
        added = ()  # the run is small already
    else:
        four = {"+experiment=ddp4", "+experiment=paper"} & set(args)
        added = (*SMALL[2:], *SMALL_FOUR) if four else SMALL
        added += () if "data.root" in given or "data=pages" in args else SMALL_SCENES
        added += (f"hydra.run.dir={folder}/run", f"hydra.sweep.dir={folder}/sweep")
        if "+sweeps=baselines" in args:
            added += ("model=hct,mobilenetv4_conv_small", "seed=0", "trainer.max_time=00:00:00:03")
        if "+sweeps=search" in args:
            added += ("search.trials=1", "~search.space.data.augment", "~search.space.callbacks")
    flags = [arg for arg in args if not is_override(arg)]
    return [*flags, *(a for a in added if key_of(a) not in given), *(a for a in args if is_override(a))]


@pytest.fixture(scope="module")
def home(tmp_path_factory, photos) -> Path:
    """A folder with what the pages speak of: photos, a list of them, a file, a set laid out as LIU4K is."""
    home = tmp_path_factory.mktemp("docs")
    for photo in photos.rglob("*.jpg"):  # thrice, so that every class also validates
        (home / "photos" / photo.parent.name).mkdir(parents=True, exist_ok=True)
        for copy in "abc":
            shutil.copy(photo, home / "photos" / photo.parent.name / f"{copy}-{photo.name}")
    rows = [f"photos/{p.parent.name}/a-{p.name},{i % 2}" for i, p in enumerate(sorted(photos.rglob("*.jpg")) * 3)]
    (home / "list.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    shutil.copy(next(photos.rglob("*.jpg")), home / "photo.jpg")
    for split in ("train", "valid"):
        for ours, theirs in {"Plant": "Street"}.items() | {(n, n) for n in ("Animal", "Building", "Mountain")}:
            shutil.copytree(home / "photos" / ours, home / "LIU4K" / split / theirs)
    return home


@pytest.fixture(scope="module")
def scenes_table(trained, environment, home) -> Path:
    """A table of scenes, which the small run knows, with a test split and the columns that the pages have."""
    rows = ["path,label,split,group,repository"]
    for i, path in enumerate(sorted(Path(environment["HCT_DATA"]).glob("scenes/*128px*/*/*/*.jpg"))):
        rows.append(f"{path},{path.parent.name},{('train', 'valid', 'test')[i % 3]},{i},{i % 2}")
    (home / "scenes.csv").write_text("\n".join(rows) + "\n")
    return home / "scenes.csv"


@pytest.fixture(scope="module")
def pages(environment, photos) -> Path:
    """Photos in the place of the pages, thrice, so that every class also validates."""
    root = Path(environment["HCT_DATA"]) / "pages"
    rows = ["path,label,split,group,repository"]
    for i, photo in enumerate(sorted(photos.rglob("*.jpg"))):
        for split in ("train", "valid", "test"):
            file = root / split / f"{i}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(photo, file)
            rows.append(f"{file},{photo.parent.name},{split},{split}{i},owner/name")
    (root / "pages.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture(scope="module")
def store(cli, home) -> Path:
    """A prepared store of the photos, served below the url that `bucket` gives."""
    cli("task=prepare", *SMALL, "data=folder", "data.root=photos", "prepare.output=prepared", cwd=home)
    return home / "prepared"


@pytest.fixture(scope="module")
def bucket(store) -> Iterator[str]:
    """A web server with the store, in the place of an object store."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=store.parent)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/{store.name}"
        server.shutdown()


def serves(args: list[str], folder: Path) -> None:
    """It says where it is, and ends in order."""
    with subprocess.Popen(
        [sys.executable, *HCT[1:], *args],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as server:
        first = server.stderr.readline()
        time.sleep(20)  # a server that can't begin ends before
        ended = server.poll()
        os.killpg(server.pid, signal.SIGINT)
        assert (ended, server.wait(60)) == (None, 0), first + server.stderr.read()
    assert "Ctrl-C ends it" in first


@pytest.mark.slow
@pytest.mark.timeout(900)  # a benchmark is many processes, and the first one builds the C++ program
@pytest.mark.parametrize("command", [command for command in RUNS if "+slurm=" not in command], ids=str)
def test_runs(command, home, trained, cli, tmp_path, request):
    """As it stands, but small. Submissions to Slurm: `tests/slurm`."""
    args = arguments(command, trained)
    if "task=serve" in args:
        serves(args, home)
        return
    for given in ("data.root=store", "data.root=s3://bucket/store"):
        if given in args:
            root = request.getfixturevalue("bucket" if "://" in given else "store")
            args[args.index(given)] = f"data.root={root}"
            args.append(f"data.cache={tmp_path}/cache")
    if "data=pages" in args:
        request.getfixturevalue("pages")
    if any(arg.startswith("validate.by=") for arg in args):
        args += ["data=csv", f"data.root={request.getfixturevalue('scenes_table')}"]
    cli(*small(args, tmp_path), cwd=home, timeout=600)


# --- Commands of other programs


def run(words: list[str], environment: dict[str, str], folder: Path) -> str:
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return done.stdout


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


# --- Snippets


@pytest.mark.parametrize("snippet", dict.fromkeys(blocks("python")))
def test_python_snippet(snippet, trained, cli, tmp_path):
    if "artifacts/timm" in snippet:
        cli("task=export", f"run={trained}", "export=[timm]", "export.evaluation=0", cwd=tmp_path)
    names = {"images": torch.zeros(2, 3, 128, 128, dtype=torch.uint8)}
    Image.new("RGB", (200, 150)).save(tmp_path / "slide.tif")
    exec(snippet.replace("RUN/", f"{trained}/").replace("slide.tif", f"{tmp_path}/slide.tif"), names)
    if "image" in names:
        assert names["probabilities"].shape == (1, 4)
    elif "probabilities" in names:
        assert names["probabilities"].shape == (2, 4)
        assert "# uint8, n c h w" in snippet
    elif "network" in names:
        assert names["network"](torch.zeros(2, 3, 128, 128)).shape == (2, 4)
    else:
        assert len(names["backbone"](torch.zeros(2, 3, 128, 128))) == 5


@pytest.mark.parametrize("snippet", blocks("yaml"))
def test_yaml_snippet_is_taken(snippet, tmp_path, environment):
    """As this machine's own settings, in the user's folder."""
    file = tmp_path / "hct_lightning" / "local" / "default.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(snippet)
    said = run([sys.executable, *HCT[1:], "--cfg", "job"], environment | {"XDG_CONFIG_HOME": str(tmp_path)}, tmp_path)
    config, settings = OmegaConf.create(said), OmegaConf.create(snippet)
    assert settings
    assert OmegaConf.merge(config, settings) == config
