import json
import subprocess
import sys
import time
from pathlib import Path

# Rank 0 is busy and meets no collective that would fail: only the watch can end it.
BUSY = """
import subprocess, sys, time
from types import SimpleNamespace
from hct_lightning.callbacks.watch_ranks import WatchRanks

ranks = [subprocess.Popen(["sleep", "60"]) for _ in range(2)]
launcher = SimpleNamespace(procs=ranks)
trainer = SimpleNamespace(strategy=SimpleNamespace(launcher=launcher), default_root_dir=sys.argv[1])
watch = WatchRanks(patience_s=0.2)
watch.setup(trainer, None, "validate")
watch.teardown(trainer, None, "validate")
watch.setup(trainer, None, "validate")  # as a trainer does that validates again
assert ranks == [] and len(launcher.procs) == 2
print(*(rank.pid for rank in launcher.procs), flush=True)
launcher.procs[1].kill()
time.sleep(60)
"""


def test_a_busy_first_rank_ends_when_another_dies(tmp_path):
    done = subprocess.run([sys.executable, "-c", BUSY, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr == "error: rank 2 has died: it was ended by SIGKILL; was the machine short of memory?\n"
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["status"] == "failed"
    assert record["reason"].startswith("rank 2 has died")
    for pid in done.stdout.split():  # gone, or a zombie that nobody has waited for
        status, until = Path(f"/proc/{pid}/status"), time.monotonic() + 10
        while status.exists() and "State:\tZ" not in status.read_text():
            assert time.monotonic() < until
            time.sleep(0.01)
