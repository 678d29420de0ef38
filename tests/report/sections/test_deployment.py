from hct_lightning.report.files import open_runs
from hct_lightning.report.sections.deployment import artifacts, benchmarks, operators, quantization


def test_artifacts_have_size_time_and_accuracy(full_run):
    table, bars = artifacts(open_runs([full_run])).blocks
    assert table.caption == "Accuracy on 6 validation images"
    assert table.rows == [["openvino_int8", "openvino", "int8", "2.00", "20.0", "0.8000", "0.9000", "0.9500", "30.0"]]
    assert bars.bars[0].text == "20.0 ms, 2.00 MB"


def test_quantization_by_percentage(full_run):
    (block,) = quantization(open_runs([full_run])).blocks
    titles = [chart.title for chart in block.charts]
    assert titles == ["Accuracy", "Agreement with fp32", "Size, MB", "Time of an image, ms"]


def test_a_benchmarks_tables_and_bars(full_run):
    bars, rows, more = benchmarks(open_runs([full_run])).blocks
    assert [(bar.name, bar.text) for bar in bars.bars] == [("torchscript", "100.0 ms"), ("plain eager", "200.0 ms")]
    assert rows.header == ["side", "size", "batch", "device", "p50_s", "speed"]
    assert more.rows == [["torchscript", 0.9]]


def test_the_hottest_operators_come_first(full_run):
    (table,) = operators(open_runs([full_run])).blocks
    assert [row[0] for row in table.rows] == ["aten::convolution", "aten::add"]
    assert table.header == ["Name", "Self CPU %", "Self CPU", "# of Calls"]


def test_what_is_missing_names_its_command(make_run):
    runs = open_runs([make_run()])
    for part in (artifacts, quantization, benchmarks, operators):
        section = part(runs)
        assert section.is_missing
        assert section.blocks[0].command.startswith("python -m hct_lightning ")
