"""The paper's figures stand beside ours."""

from hct_lightning.benchmarks.inference.paper import paper_rows


def test_the_papers_rows_stand_beside_ours():
    measured = {"size": "4000x4000", "batch": 1, "device": "cpu", "p50_s": 0.3, "mb": 7.0}
    rows = [
        measured | {"side": "checkpoint"},
        measured | {"side": "torchscript", "size": "512x512"},
    ]
    found = paper_rows(rows, [{"side": "checkpoint", "accuracy": 0.9}])
    eager, traced = found[0], found[3]
    assert (eager["paper_s"], eager["ours_s"], eager["plain_s"]) == (0.147, 0.3, None)
    assert (eager["paper_accuracy"], eager["ours_accuracy"]) == (0.596, 0.9)
    assert (traced["paper_s"], traced["ours_s"]) == (0.240, None)  # not at the paper's size
    assert len(found) == 15
