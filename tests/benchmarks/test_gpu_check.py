"""What is checked on a machine with GPUs, as far as one without them can."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hct_lightning.benchmarks import gpu_check


@pytest.mark.skipif(torch.cuda.is_available(), reason="there are GPUs: run benchmark=gpu_check")
def test_says_pass_fail_or_not_run_for_each_claim(monkeypatch):
    def broken(device: torch.device, resolution: int) -> str:
        raise AssertionError("a relative error of 2e+00\nand more")

    monkeypatch.setitem(gpu_check.CLAIMS, "mixed_precision_learns", gpu_check.Claim(0, broken))
    names = ["out_of_memory_is_recognised", "same_gradients_in_low_memory", "mixed_precision_learns"]
    found = gpu_check.benchmark(claims=[*names, "several_gpus_train"], resolution=128)
    assert [row["result"] for row in found["rows"]] == ["pass", "pass", "fail", "not run"]
    assert found["ratios"] == {"passed": 2, "failed": 1, "not_run": 1}
    assert found["rows"][2]["seen"] == "AssertionError: a relative error of 2e+00"
    assert found["rows"][3]["seen"] == "takes 2 CUDA GPUs"


def test_a_check_that_can_fail():
    with pytest.raises(AssertionError, match="a relative error of"):
        gpu_check.relative_error(torch.ones(2), torch.zeros(2) + 0.5, 0.1)


def test_pytorch_watches_all_steps_of_an_epoch_but_the_first(monkeypatch):
    said = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", said.append)
    watching = gpu_check.NoWaiting()
    for batch_idx in range(4):
        trainer = SimpleNamespace(is_last_batch=batch_idx == 3)
        said.append(batch_idx)
        watching.on_train_batch_start(trainer, None, None, batch_idx)
        watching.on_train_batch_end(trainer, None, None, None, batch_idx)
    assert said == [0, 1, "error", 2, 3, "default"]


def test_an_unknown_claim_is_named():
    with pytest.raises(ValueError, match="claims=speed: choose from out_of_memory_is_recognised, "):
        gpu_check.benchmark(claims=["speed"], resolution=128)


def test_the_page_lists_the_claims_and_the_gpus_that_they_take():
    page = (Path(__file__).parents[2] / "docs" / "gpu.md").read_text()
    listed = re.findall(r"^\| `(\w+)` \| (\d) \|", page, re.MULTILINE)
    assert {name: int(gpus) for name, gpus in listed} == {name: claim.gpus for name, claim in gpu_check.CLAIMS.items()}
