"""A secret of the command line is in no file that others can read."""

import os
import subprocess
import sys
from pathlib import Path

CANARY = "canary-of-a-secret"


def holding(folder: Path) -> set[Path]:
    """Files with the secret in them."""
    return {path for path in folder.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()}


def test_what_is_submitted_is_readable_by_its_owner_alone(environment, tmp_path):
    """All that a submission writes is there before sbatch is called; scripts stand for it, and for srun."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sbatch", "srun"):  # submitit looks whether srun is there
        (programs / name).write_text("#!/bin/sh\necho Submitted batch job 7\n")
        (programs / name).chmod(0o755)
    folder = tmp_path / "sweep"
    secret = f"+slurm.environment.MINE={CANARY}"
    options = ("-m", "seed=1,2", "+slurm=cpu", "slurm.wait=false", secret, f"hydra.sweep.dir={folder}")
    done = subprocess.run(
        [sys.executable, "-m", "hct_lightning", *options],
        cwd=tmp_path,
        env=environment | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "submitted job 7" in done.stdout, done.stderr
    assert CANARY not in done.stdout + done.stderr
    found = holding(folder)
    assert {"multirun.yaml"} < {path.name for path in found}, "Slurm is given it"
    assert not [path for path in found if path.stat().st_mode & 0o077]
    assert not {"slurm.json", "run.json"} & {path.name for path in found}
