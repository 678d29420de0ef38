"""Facts about this machine, recorded beside results."""

import contextlib
import platform
import socket
import sys
from pathlib import Path
from typing import Any

import torch

from hct_lightning.machine.runtime import cpu_count


def machine_facts() -> dict[str, Any]:
    """Host, system, CPU, threads, GPUs, and the command that runs."""
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
