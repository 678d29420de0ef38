"""What the profiler says of two real ranks."""

import re

import pytest

from hct_lightning.training.profiler import union_us


def test_union():
    assert union_us([(0, 2), (1, 3), (5, 6), (5.5, 5.7)]) == 4


@pytest.mark.slow
def test_communication_and_computation_apart(cli, tiny, tmp_path):
    run = tmp_path / "run"
    cli(*tiny[:6], "debug=profile", "trainer.devices=2", f"hydra.run.dir={run}", cwd=tmp_path)
    for rank in (0, 1):
        summary = (run / "profile" / f"fit-summary-{rank}.txt").read_text()
        ms = {name: float(value) for name, value in re.findall(r"^ *([a-z ]+?) +([\d.]+) ms", summary, re.M)}
        assert ms["computation"] > 1
        assert ms["communication"] > 0.1
        apart = ms["hidden behind computation"] + ms["exposed"]
        assert abs(apart - ms["communication"]) < 0.02
    assert len(list((run / "profile").glob("*.trace.json"))) == 2
