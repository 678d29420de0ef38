"""A real Slurm of two nodes on this machine, started for the tests and stopped after them."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

CLUSTER = Path(__file__).parent / "cluster"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun")


class Slurm:
    """The cluster's environment, and its commands."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment

    def run(self, *command: str, cwd: Path | None = None, status: int | None = 0) -> subprocess.CompletedProcess:
        done = subprocess.run(command, cwd=cwd, env=self.environment, capture_output=True, text=True, timeout=580)
        if status is not None and done.returncode != status:
            pytest.fail(f"{command}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def hct(self, *args: str, cwd: Path, status: int | None = 0) -> subprocess.CompletedProcess:
        return self.run(sys.executable, "-m", "hct_lightning", *args, cwd=cwd, status=status)

    def state(self, folder: Path) -> str:
        return self.run(sys.executable, "-m", "hct_lightning.slurm", str(folder)).stdout

    def job(self, job: str) -> dict[str, str]:
        said = self.run("scontrol", "--oneliner", "show", "job", job).stdout.splitlines()[0]
        return dict(word.split("=", 1) for word in said.split() if "=" in word)


@pytest.fixture(scope="session")
def slurm(environment) -> Iterator[Slurm]:
    path = os.pathsep.join((environment["PATH"], "/usr/sbin", "/sbin"))
    missing = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if missing:
        pytest.skip(f"Slurm is not installed (no {', '.join(missing)}): make slurm-test installs it")
    folder = Path(tempfile.mkdtemp(prefix="hct-slurm-"))  # short: it holds Unix sockets
    try:
        said = subprocess.run([CLUSTER / "start_slurm.sh", folder], capture_output=True, text=True, timeout=120)
        assert said.returncode == 0, said.stderr
        exports = dict(re.findall(r"^export (\w+)=(.*)$", said.stdout, re.MULTILINE))
        here = os.path.dirname(sys.executable)  # as in a shell in which the venv is active
        exports["PATH"] = exports["PATH"].replace("$PATH", os.pathsep.join((here, path)))
        # Without the names that a job around these tests would leave.
        clean = {k: v for k, v in environment.items() if not k.startswith(("SLURM_", "SUBMITIT_"))}
        yield Slurm(clean | exports)
    finally:
        subprocess.run([CLUSTER / "stop_slurm.sh", folder, "--purge"], check=True, timeout=120)
