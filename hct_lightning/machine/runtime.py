"""Settings that make a process fast: allocator, threads, precision.

The app sets them, and no import does: a program that uses our classes keeps its own settings.
"""

import ctypes
import logging
import os
from typing import Any

import torch

log = logging.getLogger(__name__)


def keep_memory() -> bool:
    """Tells glibc to keep freed memory instead of giving it back at every step.

    Tensors of hundreds of MB are otherwise mapped and unmapped each time, and page faults take a
    third to a half of all time on the CPU. Returns False, having done nothing, off glibc.
    """
    return _mallopt(_MMAP_MAX, 0) and _mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def map_blocks() -> bool:
    """Tells glibc to map each block that is not small, and to give it back when it is freed: no gaps, but slower.

    A heap keeps gaps that the next tensor does not fit, up to as much again as is in use. Returns False, having done
    nothing, off glibc.
    """
    return _mallopt(_MMAP_MAX, 2**16) and _mallopt(_MMAP_THRESHOLD, 2**16) and _mallopt(_TRIM_THRESHOLD, 2**17)


_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # M_... of malloc.h


def _mallopt(parameter: int, value: int) -> bool:
    try:
        return bool(ctypes.CDLL("libc.so.6").mallopt(parameter, value))
    except (OSError, AttributeError):
        return False


def cpu_count() -> int:
    """CPUs that this process may use: fewer than the machine has under Slurm or taskset."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpus_of_a_rank(ranks_here: int = 1) -> int:
    """CPUs for each of so many ranks on this machine; under srun those of its task."""
    task = os.environ.get("SLURM_CPUS_PER_TASK") if "SLURM_STEP_ID" in os.environ else None
    return min(int(task), cpu_count()) if task else max(1, cpu_count() // ranks_here)


def configure(options: Any) -> None:
    """Applies the `runtime` options.

    Args:
        options: `keep_memory` (bool), `threads` (int, or null for torch's own choice),
            `matmul_precision` (of torch.set_float32_matmul_precision, and of convolutions: all but "highest"
            allow TF32).
    """
    if options.keep_memory:
        keep_memory()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    # Where a network is sure of everything its gradients are below 1e-38, and a CPU computes with such numbers up to a
    # hundred times as slowly. Threads that begin later take this over.
    torch.set_flush_denormal(True)
    torch.set_float32_matmul_precision(options.matmul_precision)
    torch.backends.cudnn.allow_tf32 = options.matmul_precision != "highest"


def resolve_accelerator(accelerator: str) -> str:
    """`cuda`, `mps` or `cpu` for Lightning's `auto` and `gpu`; anything else is passed through."""
    if accelerator not in ("auto", "gpu"):
        return accelerator
    if torch.cuda.is_available():
        return "cuda"
    if torch.backends.mps.is_available():
        return "mps"
    if accelerator == "gpu":
        raise ValueError("trainer.accelerator=gpu, but torch sees no GPU; use trainer.accelerator=cpu")
    return "cpu"


def resolve_precision(precision: str | int, accelerator: str) -> str:
    """Lightning's name of the precision to train with.

    `auto` is bf16-mixed where the hardware computes in bf16, 16-mixed on older GPUs (an RTX 8000
    only emulates bf16), else 32-true. Anything else is passed through.

    Args:
        precision: the option `trainer.precision`.
        accelerator: where training runs: "cuda", "cpu", "mps", ...
    """
    if precision != "auto":
        return str(precision)
    if accelerator == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16-mixed" if native else "16-mixed"
    if accelerator == "cpu" and _cpu_has_bf16():
        return "bf16-mixed"
    return "32-true"


def _cpu_has_bf16() -> bool:
    """AVX512-BF16 or AMX; without them oneDNN emulates bf16 at a loss."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
