"""What control groups leave, by the files that Linux has for them."""

from pathlib import Path

import pytest

from hct_lightning.machine.cgroups import memory_left

MIB = 2**20


def group(place: Path, limit: str, taken: int, cached: int, names: tuple[str, str, str]) -> None:
    place.mkdir(parents=True, exist_ok=True)
    (place / names[0]).write_text(f"{limit}\n")
    (place / names[1]).write_text(f"{taken}\n")
    (place / "memory.stat").write_text(f"anon 5\n{names[2]} {cached}\n")


NEWER = ("memory.max", "memory.current", "inactive_file")
OLDER = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def test_a_slurm_job_has_what_the_tightest_group_above_it_leaves(tmp_path):
    own, mounted = tmp_path / "cgroup", tmp_path / "mounted"
    own.write_text("0::/system.slice/slurmstepd.scope/job_7/step_0/task_0\n")
    assert memory_left(own, mounted) is None
    job = mounted / "system.slice" / "slurmstepd.scope" / "job_7"
    group(job / "step_0" / "task_0", "max", 10, 0, NEWER)
    assert memory_left(own, mounted) is None
    group(job / "step_0", str(900 * MIB), 100 * MIB, 0, NEWER)
    group(job, str(800 * MIB), 500 * MIB, 200 * MIB, NEWER)
    assert memory_left(own, mounted) == 500 * MIB
    group(job, str(800 * MIB), 900 * MIB, 0, NEWER)
    assert memory_left(own, mounted) == 0


def test_a_container_sees_its_group_at_the_top(tmp_path):
    own = tmp_path / "cgroup"
    for path in ("/", "/docker/abc"):  # with a namespace of its own and without
        own.write_text(f"0::{path}\n")
        group(tmp_path / "mounted", str(300 * MIB), 100 * MIB, 0, NEWER)
        assert memory_left(own, tmp_path / "mounted") == 200 * MIB
    (tmp_path / "mounted" / "memory.stat").unlink()
    assert memory_left(own, tmp_path / "mounted") == 200 * MIB


@pytest.mark.parametrize("controllers", ["memory", "cpu,memory"])
def test_the_older_groups(tmp_path, controllers):
    own, mounted = tmp_path / "cgroup", tmp_path / "mounted"
    own.write_text(f"9:{controllers}:/slurm/job_7\n3:cpuset:/\n0::/\n")
    group(mounted / "memory" / "slurm" / "job_7", str(300 * MIB), 100 * MIB, 50 * MIB, OLDER)
    assert memory_left(own, mounted) == 250 * MIB


def test_a_system_without_them(tmp_path):
    assert memory_left(tmp_path / "absent", tmp_path) is None
