"""A side tells its own time and memory."""

import subprocess
import sys


def test_memory_is_the_sides_own(tmp_path):
    """Not the high-water mark of the process that started it, which Linux would let it inherit."""
    code = (
        "import sys; from hct_lightning.benchmarks.harness.interleave import interleave\n"
        "ballast = b'x' * 2**30; del ballast\n"
        "side = [sys.executable, '-c', 'from hct_lightning.benchmarks.harness.side import serve; serve(int)']\n"
        "print(interleave({'x': side}, warmup=0, rounds=1)['x'].peak_gib)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0 < float(done.stdout) < 0.2
