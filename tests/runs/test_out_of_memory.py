"""Memory that does not suffice is recognised, whoever says it."""

import pytest
import torch

from hct_lightning.runs import out_of_memory


def test_what_pytorch_really_raises():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60, dtype=torch.uint8)
    assert out_of_memory.shows_in(raised.value)


@pytest.mark.parametrize(
    ("error", "shows"),
    [
        (torch.OutOfMemoryError("CUDA: tried to allocate 2 GiB"), True),
        (MemoryError(), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("Connection closed by peer"), False),
        (ValueError("the data are out of memory"), False),
    ],
)
def test_other_errors(error, shows):
    assert out_of_memory.shows_in(error) is shows


def test_advice_is_of_one_run():
    out_of_memory.advise("use memory=low")
    assert out_of_memory.with_advice("killed") == "killed; use memory=low"
    out_of_memory.forget()
    assert out_of_memory.with_advice("killed") == "killed"
