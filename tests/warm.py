"""`python -m hct_lightning` without its seconds of imports: a process that has made them, and forks for every call.

wandb is not among them, and timm is imported as where there is no wandb: wandb makes a temporary folder for the
process that imports it, and each fork would remove it at its end.

Reads a JSON object a line from standard input, {args, cwd, stdout, stderr}, the last two being files, and answers
with the exit status. What is imported is what others wrote; hct_lightning itself starts anew in each call.
"""

import json
import os
import runpy
import sys
from typing import Any

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # as app.main: read when torch is imported

import hydra  # noqa: F401
import lightning  # noqa: F401
import torchmetrics.classification  # noqa: F401

sys.modules["wandb"] = None  # pyright: ignore[reportArgumentType]
import timm  # noqa: E402, F401

del sys.modules["wandb"]


def become(call: dict[str, Any]) -> None:
    """Makes this process the one that a shell would have started."""
    files = (os.devnull, os.O_RDONLY), *((call[name], os.O_WRONLY) for name in ("stdout", "stderr"))
    for number, (file, mode) in enumerate(files):
        opened = os.open(file, mode)
        os.dup2(opened, number)
        os.close(opened)
    os.chdir(call["cwd"])
    sys.path[0] = call["cwd"]
    sys.argv[1:] = call["args"]


for line in sys.stdin:
    child = os.fork()
    if not child:
        become(json.loads(line))
        runpy.run_module("hct_lightning", run_name="__main__", alter_sys=True)
        break
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
