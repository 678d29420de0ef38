"""The command line as users run it, and a small trained run that tests share."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# A shell's background job ignores Ctrl-C, and so would the runs that are to be interrupted.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

TINY = (
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

Cli = Callable[..., subprocess.CompletedProcess]


@pytest.fixture(scope="session")
def environment(tmp_path_factory) -> dict[str, str]:
    """Scenes drawn once for all tests; one thread, so that results are comparable bit by bit."""
    data = tmp_path_factory.mktemp("data")
    return os.environ | {"HCT_DATA": str(data), "OMP_NUM_THREADS": "1", "COLUMNS": "160"}


@pytest.fixture(scope="session")
def cli(environment) -> Cli:
    """Runs `python -m hct_lightning ARGS` in a folder; fails the test unless it exits with `status`."""

    def run(
        *args: str, cwd: Path, status: int | None = 0, timeout: float = 280, **options
    ) -> subprocess.CompletedProcess:
        done = subprocess.run(
            [sys.executable, "-m", "hct_lightning", *args],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            **options,
        )
        if status is not None and done.returncode != status:
            pytest.fail(f"exit {done.returncode}, not {status}\n{done.stdout}\n{done.stderr}")
        return done

    return run


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
def photos() -> Path:
    """Real photographs, a folder a class."""
    return Path(__file__).parent / "photos"
