"""The command line as users run it, and a small trained run that tests share."""

import contextlib
import json
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module

from hct_lightning.cli.plain import plain

# A shell's background job ignores Ctrl-C, and so would the runs that are to be interrupted.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Before torch is imported: tests that run side by side would wait for each other's threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What is compiled here is remembered here, and not in the user's home.
_STATE = tempfile.TemporaryDirectory(prefix="hct-state-")
os.environ["XDG_STATE_HOME"] = _STATE.name

TINY = (
    "recipe=plain",
    "data.scene_size=128",
    "data.resolution=128",
    "data.train=24",
    "data.valid=10",
    "data.batch_size=4",
    "trainer.max_epochs=2",
    "trainer.log_every_n_steps=2",
    "export.calibration=4",
    "export.evaluation=10",
)

# The files that take longest start first: two workers then end at nearly the same time.
LONGEST = (
    "parallel/test_ddp.py",
    "tasks/test_fit.py",
    "deploy/runtimes/test_runtimes.py",
    "deploy/test_cpp.py",
    "tasks/test_prepare.py",
    "cli/test_sweep.py",
    "training/test_memory_plan.py",
    "runs/test_endings.py",
    "tasks/test_export.py",
    "tasks/test_inspect.py",
    "tasks/test_predict.py",
    "tasks/test_pretrain.py",
    "deploy/test_cpp_errors.py",  # behind the other one, which builds the program
    "deploy/test_cpp_images.py",
)

Cli = Callable[..., subprocess.CompletedProcess]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {Path(__file__).parent / name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


class Clock:
    """In the place of a module's `time`: time passes when the test says so, however busy the machine is."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def monotonic(self) -> float:
        return self.now_s

    perf_counter = monotonic


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """Below those that connections get by chance, so that it is still free when it is used."""

    def find() -> int:
        while True:
            port = random.SystemRandom().randrange(15_000, 30_000)
            with socket.socket() as probe, contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port

    return find


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def environment(tmp_path_factory) -> dict[str, str]:
    """Scenes drawn once for all tests; one thread, so that results are comparable bit by bit."""
    data = tmp_path_factory.mktemp("data")
    return os.environ | {"HCT_DATA": str(data), "OMP_NUM_THREADS": "1", "COLUMNS": "160"}


@pytest.fixture(scope="session")
def cli(environment, tmp_path_factory) -> Iterator[Cli]:
    """Runs `python -m hct_lightning ARGS` in a folder; fails the test unless it exits with `status`.

    Each call is a process of its own, forked from one that has torch and Lightning imported: see warm.py.
    """
    files = {name: tmp_path_factory.mktemp("cli") / name for name in ("stdout", "stderr")}
    command = [sys.executable, Path(__file__).with_name("warm.py")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "start_new_session": True}
    with subprocess.Popen(command, env=environment, **pipes) as warm:

        def run(*args: str, cwd: Path, status: int | None = 0, timeout: float = 280) -> subprocess.CompletedProcess:
            for file in files.values():
                file.write_text("")
            call = {"args": [str(arg) for arg in args], "cwd": str(cwd)}
            call |= {name: str(file) for name, file in files.items()}
            print(json.dumps(call), file=warm.stdin, flush=True)
            if not select.select([warm.stdout], [], [], timeout)[0]:
                os.killpg(warm.pid, signal.SIGKILL)
                pytest.fail(f"no end after {timeout} s: {args}\n{files['stderr'].read_text()}")
            returned = int(warm.stdout.readline())
            said = {name: file.read_text(errors="replace") for name, file in files.items()}
            if status is not None and returned != status:
                pytest.fail(f"exit {returned}, not {status}\n{said['stdout']}\n{said['stderr']}")
            return subprocess.CompletedProcess(args, returned, **said)

        yield run


@pytest.fixture(scope="session")
def tiny() -> tuple[str, ...]:
    """Overrides that make a run of seconds."""
    return TINY


@pytest.fixture(scope="session")
def trained(cli, tmp_path_factory) -> Path:
    """The folder of a small finished run; tests read it and write only below `<verb>/`."""
    home = tmp_path_factory.mktemp("trained")
    done = cli(*TINY, f"hydra.run.dir={home}/run", cwd=home)
    (home / "run" / "stdout.txt").write_text(done.stdout)
    return home / "run"


@pytest.fixture(scope="session")
def data_options() -> Callable[..., dict[str, Any]]:
    """`data_options("folder", resolution=32)`: what conf/ says of `data=folder recipe=plain`, with some changed."""

    def options(group: str, **changed: Any) -> dict[str, Any]:
        with initialize_config_module("hct_lightning.conf", version_base="1.3"):
            found = plain(compose("config", [f"data={group}", "recipe=plain"]).data)
        return {name: value for name, value in found.items() if name not in ("_target_", "source")} | changed

    return options


@pytest.fixture(scope="session")
def photos() -> Path:
    """Real photographs, a folder a class."""
    return Path(__file__).parent / "photos"


@pytest.fixture(scope="module")
def chromium():
    """Debian's or another one that is installed; Playwright drives it and brings none.

    For a module: while Playwright runs, so does an event loop, and tests of others begin their own.
    """
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    playwright = None
    if program or os.environ.get("HCT_BROWSER") == "required":
        playwright = pytest.importorskip("playwright.sync_api")
    if not playwright:
        pytest.skip("there is no Chromium; apt-get install chromium")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()
