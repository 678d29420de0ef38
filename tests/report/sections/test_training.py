import json

from hct_lightning.report.charts import COLOURS
from hct_lightning.report.files import open_runs
from hct_lightning.report.sections.training import curves, times


def test_the_curves_of_a_run_have_one_legend(make_run):
    (block,) = curves(open_runs([make_run()])).blocks
    assert [chart.title for chart in block.charts] == ["Loss", "Accuracy", "Learning rate"]
    assert [(name, dashed) for name, _, dashed in block.legend] == [("validation", False), ("training", True)]


def test_of_many_runs_the_most_accurate_are_drawn(make_run):
    runs = open_runs([make_run(str(i), accuracy=i / 10) for i in range(COLOURS + 2)])
    note, block = curves(runs).blocks
    assert note.text == f"The {COLOURS} most accurate of {COLOURS + 2} runs."
    assert not [name for name, *_ in block.legend if name.startswith(("0,", "1,"))]


def test_times_of_one_run_and_of_several(make_run):
    one, two = open_runs([make_run("one"), make_run("two", ranks=2)])
    table, bars = times([one]).blocks
    assert table.rows == [["one", "1", "0.20", "1.00", "0.00", "1.20", "10.0"]]
    assert bars.bars[0].text == "100.0 ms"
    table, bars, _ = times([two, one]).blocks  # in whatever order: against the one on the fewest ranks
    assert table.rows[0][-3:] == ["2.00", "1.67", "1.71"]
    assert table.rows[1][0] == "rank 0"
    assert table.rows[-1][-3:] == ["1.00", "1.00", "1.00"]
    assert sum(bars.bars[0].parts) < sum(bars.bars[1].parts)


def test_a_run_that_was_resumed_when_all_epochs_were_done_has_its_ranks(make_run):
    """`run.json` has the times of the epochs since then, metrics.csv those of all."""
    folder = make_run(ranks=2)
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(record | {"epoch_times": []}))
    table, _ = times(open_runs([folder])).blocks
    assert [row[:3] for row in table.rows] == [["run", "2", "0.10"]]
