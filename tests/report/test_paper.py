import pytest

from hct_lightning.report import paper


def test_the_logs_have_their_epochs_and_the_means_that_the_paper_states():
    logs = paper.epochs()
    assert {name: len(log["run_s"]) for name, log in logs.items()} == {"single_gpu": 30, "ddp4_annealed": 80}
    for part, column in (("loading", "load_s"), ("training", "train_s"), ("running", "run_s")):
        for log, stated in zip(logs.values(), paper.EPOCH_S[part], strict=True):
            assert sum(log[column]) / len(log[column]) == pytest.approx(stated, rel=0.15)
    assert max(logs["ddp4_annealed"]["val_acc"]) == pytest.approx(0.635, abs=5e-4)


def test_the_rows_of_inference():
    rows = paper.inference()
    assert len(rows) == 15
    assert rows[0] == ("eager fp32", "cpu", 1, 0.147, 7.04, 0.596, "plain eager", "checkpoint")
    assert rows[-1].plain is rows[-1].ours is rows[-1].mb is None
