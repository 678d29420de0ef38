"""What submitting takes is named where it is missing."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("before", "path", "said"),
    [
        ("sys.modules['submitit'] = None", "/usr/bin", "pip install 'hct-lightning[slurm]'"),
        ("pass", "/nowhere", "this machine does not have"),
    ],
    ids=["submitit", "sbatch"],
)
def test_what_is_missing_is_named(tmp_path, environment, before, path, said):
    program = f"import sys; {before}; from hct_lightning.app import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "+slurm=cpu"],
        cwd=tmp_path,
        env=environment | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert said in done.stderr.splitlines()[-1]
