from hct_lightning.report.sections.sweep import sweep
from hct_lightning.report.sweep import mark_pareto, read_points


def test_the_points_of_a_sweep(sweep_of_three):
    points = read_points(sweep_of_three)
    mark_pareto(points)
    table, charts, _ = sweep(points).blocks
    assert table.header[:2] == ["point", "data.resolution"]
    assert [row[-1] for row in table.rows] == ["", "Pareto front", "failed: no memory <b>left</b>"]
    assert [chart.title for chart in charts.charts] == ["Validation accuracy", "Training, images/s", "Peak memory, GiB"]
    assert charts.charts[0].svg.count("ring") == 1
