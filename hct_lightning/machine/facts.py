"""What this machine is, for whoever reads a result later."""

import contextlib
import platform
import socket
import sys
from pathlib import Path
from typing import Any

import torch

from hct_lightning.machine.runtime import cpu_count


def machine_facts() -> dict[str, Any]:
    """What the run ran on."""
    return {
        "host": socket.gethostname(),
        "system": platform.platform(),
        "cpu": _cpu_name(),
        "cpus": cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "command": sys.argv,
    }


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
