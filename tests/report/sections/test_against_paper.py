from hct_lightning.report.files import open_runs
from hct_lightning.report.sections.against_paper import inference, learning, quantization, times


def test_learning_lies_over_the_papers_curves(make_run):
    _, block = learning(open_runs([make_run("mine")])).blocks
    assert [name for name, *_ in block.legend] == ["paper, 1 GPU", "paper, 4 GPUs", "mine"]
    assert [chart.title for chart in block.charts] == [
        "Training loss",
        "Training accuracy",
        "Validation accuracy",
    ]


def test_one_device_against_several_as_the_paper(make_run):
    one, two = make_run("one"), make_run("two", ranks=2)
    _, table, bars, _ = times(open_runs([one, two])).blocks
    running = dict(zip(table.header, table.rows[-1], strict=True))
    assert running["times as fast"] == "3.25"
    assert running["one, 1 rank, ms an image"] == "100.0"
    assert running["times as fast per image"] == "1.71"
    assert [bar.text for bar in bars.bars[-2:]] == ["3.25", "1.71"]
    assert len(times(open_runs([one])).blocks) == 4  # the paper's table stands there also alone


def test_inference_is_told_beside_eager_on_the_same_machine(full_run):
    table, bars, _ = inference(open_runs([full_run])).blocks
    assert table.caption == "The paper at 4000 px, here at 64x64"
    traced = next(row for row in table.rows if row[0] == "traced fp32")
    assert traced[1:] == ["0.240", "", "0.100", "torchscript"]
    text = {bar.name: bar.text for bar in bars.bars}
    assert text["traced fp32: paper"] == "1.63"
    assert text["traced fp32: HCT-Lightning here"] == "0.50"
    assert text["eager fp32: plain PyTorch here"] == "1.00"


def test_without_a_benchmark_the_papers_figures_stand_alone(make_run):
    *_, missing, _ = inference(open_runs([make_run()])).blocks
    assert "benchmark=inference" in missing.command


def test_before_and_after_quantization(full_run):
    table, _ = quantization(open_runs([full_run])).blocks
    assert table.rows[0] == ["paper: eager fp32", "59.6%", "7.04", "147"]
    assert table.rows[-1] == ["run: openvino_int8", "80.0%", "2.00", "20"]
