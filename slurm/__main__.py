"""The state of what Slurm runs: python -m hct_lightning.slurm FOLDER."""

import argparse
import sys
from pathlib import Path

from hct_lightning.slurm import state

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m hct_lightning.slurm", description=__doc__)
    parser.add_argument("folder", type=Path, help="of a run, or of a sweep: multirun/...")
    folder = parser.parse_args().folder
    try:
        points = state.read(folder)
        state.show(points)
        if len(points) > 1 and all(point.state in state.OVER for point in points):
            from hct_lightning.report import sweep  # matplotlib is slow to import

            sweep.report(folder)
    except ValueError as error:
        sys.exit(f"error: {error}")
