"""Config groups that stand beside conf/."""

import subprocess
import sys


def test_machine_local_configuration_is_used(cli, environment, tmp_path):
    local = tmp_path / "hct_lightning" / "local"
    local.mkdir(parents=True)
    (local / "default.yaml").write_text("# @package _global_\ndata:\n  num_workers: 7\n")
    done = subprocess.run(
        [sys.executable, "-m", "hct_lightning", "--cfg", "job"],
        cwd=tmp_path,
        text=True,
        capture_output=True,
        check=True,
        env=environment | {"XDG_CONFIG_HOME": str(tmp_path)},
    )
    assert "num_workers: 7" in done.stdout
