import numpy as np
import pytest

from hct_lightning.report.files import open_runs
from hct_lightning.report.page import Charts, Pictures, Table
from hct_lightning.report.predictions import JudgedImages
from hct_lightning.report.sections.answers import MATRIX, answers, in_detail


def test_a_run_in_detail(full_run):
    note, confusion, scores, charts, worst, best = answers(open_runs([full_run])).blocks
    assert note.text == "6 validation images, checkpoint best: 83.33% are right."
    assert [row[1:] for row in confusion.rows] == [[2, 0, 0], [0, 2, 0], [1, 0, 1]]
    assert confusion.heat[2][1] == pytest.approx(0.3)  # half of the owls
    assert scores.rows[0][:5] == ["cat", "2", "0.667", "1.000", "0.800"]
    assert [chart.title.split(":")[0] for chart in charts.charts] == ["ROC", "Precision and recall", "Calibration"]
    assert worst.pictures[0].text == "<b>owl</b> 10.0%, taken for cat 80.0% · 5<i>\udcff.jpg"
    assert not worst.pictures[0].good
    assert all(picture.good for picture in best.pictures)


def test_of_many_runs_the_best_is_looked_at(full_run, make_run):
    others = [make_run(str(i)) for i in range(5)]
    for other in others:
        (other / "validate").mkdir()
        lines = (full_run / "validate" / "best.csv").read_bytes().splitlines(keepends=True)
        (other / "validate" / "best.csv").write_bytes(lines[0] + lines[-1])
    blocks = answers(open_runs([*others, full_run])).blocks
    assert [row[0] for row in blocks[0].rows] == ["0", "1", "2", "3", "4", "run"]
    assert blocks[1].text == "In detail the best of them, run."
    assert len([block for block in blocks if isinstance(block, Charts)]) == 1


def test_many_classes_are_listed_by_their_confusions(tmp_path):
    classes = [str(i) for i in range(MATRIX + 1)]
    probabilities = np.eye(len(classes))[[1, 1, *range(2, len(classes))]]
    labels = np.array([0, 1, *range(2, len(classes))])
    blocks = in_detail(JudgedImages([""] * len(labels), labels, probabilities, classes, tmp_path / "best.csv"))
    confusions = next(block for block in blocks if isinstance(block, Table))
    assert confusions.rows == [["0", "1", 1]]
    assert not [block for block in blocks if isinstance(block, Pictures)]  # none lie there
