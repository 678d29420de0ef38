"""The baseline of training."""

import pytest
import torch

from hct_lightning.benchmarks.baselines.plain_training import Step, half_precision


@pytest.mark.parametrize(("native", "dtype"), [(True, torch.bfloat16), (False, None)])
def test_a_tuned_baseline_is_in_bf16_where_the_cpu_does_not_emulate_it(monkeypatch, native, dtype):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: native)
    assert half_precision("cpu") is dtype


@pytest.mark.skipif(torch.cuda.is_available(), reason="the CPU's precision")
@pytest.mark.parametrize("tuned", [False, True])
def test_a_step_trains(monkeypatch, tuned):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    step = Step.build(64, 2, tuned=tuned)
    before = [weight.clone() for weight in step.model.parameters()]
    step()
    assert any(not torch.equal(old, new) for old, new in zip(before, step.model.parameters(), strict=True))
    assert step.forward().dtype is torch.float32
