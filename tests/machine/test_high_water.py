import subprocess
import sys

import numpy as np

PEAKS = """
import numpy as np
from hct_lightning.machine.high_water import peak_gib
print(peak_gib())
np.ones(2**26)  # half a GiB, freed at once
print(peak_gib())
"""


def test_the_mark_stays_when_memory_is_freed_and_is_not_the_parents():
    np.ones(2**27)  # 1 GiB here
    done = subprocess.run([sys.executable, "-c", PEAKS], capture_output=True, text=True, check=True)
    before, after = map(float, done.stdout.split())
    assert before < 0.5
    assert 0.45 < after - before < 0.6
