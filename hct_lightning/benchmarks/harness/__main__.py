"""A side's process: python -m hct_lightning.benchmarks.harness MODULE:FUNCTION ARGUMENTS, as `side.process` says."""

import importlib
import json
import sys

module, _, function = sys.argv[1].partition(":")
getattr(importlib.import_module(module), function)(**json.loads(sys.argv[2]))
