import ctypes
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch

from hct_lightning.machine import runtime


def test_kept_memory_is_not_given_back_to_the_system():
    code = (
        "import torch\nfrom pathlib import Path\nfrom hct_lightning.machine.runtime import keep_memory\n"
        "assert keep_memory()\ntorch.ones(2**26)\n"  # 256 MB, freed at once
        "print(int(Path('/proc/self/statm').read_text().split()[1]) * 4096)"
    )
    held = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert held > 2**28


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux")
def test_cpus_are_those_the_process_may_use(monkeypatch):
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert runtime.cpu_count() == 1
        assert runtime.cpus_of_a_rank(4) == 1
    finally:
        os.sched_setaffinity(0, allowed)
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    assert runtime.cpus_of_a_rank() == 1


def test_precision_is_bf16_only_where_the_hardware_computes_in_it():
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    assert runtime.resolve_precision("auto", "cpu") == ("bf16-mixed" if native else "32-true")
    assert runtime.resolve_precision("auto", "mps") == "32-true"
    assert runtime.resolve_precision(16, "cpu") == "16"


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_said():
    assert runtime.resolve_accelerator("auto") == "cpu"
    with pytest.raises(ValueError, match=r"trainer\.accelerator=gpu, but torch sees no GPU"):
        runtime.resolve_accelerator("gpu")


def test_off_glibc_nothing_is_done(monkeypatch):
    def without(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", without)
    assert runtime.keep_memory() is False


def test_mapped_blocks_go_back_to_the_system_at_once():
    code = (
        "import torch\nfrom pathlib import Path\nfrom hct_lightning.machine.runtime import keep_memory, map_blocks\n"
        "def held(): return int(Path('/proc/self/statm').read_text().split()[1]) * 4096\n"
        "keep_memory()\nassert map_blocks()\nbefore = held()\n"
        "tensors = [torch.ones(2**22) for _ in range(16)]\nassert held() - before > 2**27\n"
        "del tensors[::2]\nprint(held() - before)"  # every second one: a heap would keep the gaps
    )
    held = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert held < 1.1 * 2**27


@pytest.mark.parametrize(("precision", "allowed"), [("highest", False), ("high", True)])
def test_convolutions_have_tf32_where_matrix_products_have(precision, allowed):
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        runtime.configure(SimpleNamespace(keep_memory=False, threads=None, matmul_precision=precision))
        assert torch.backends.cudnn.allow_tf32 is allowed
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
        torch.set_flush_denormal(False)


def test_threads_flush_numbers_that_a_cpu_computes_with_slowly():
    """Also those that begin later, as the ones of tiles."""
    small = torch.full((64,), 1e-39)
    assert (small * 0.5).any()
    try:
        runtime.configure(SimpleNamespace(keep_memory=False, threads=None, matmul_precision="high"))
        with ThreadPoolExecutor(1) as pool:
            assert not pool.submit(lambda: (small * 0.5).any()).result()
        assert not (small * 0.5).any()
    finally:
        torch.set_flush_denormal(False)
