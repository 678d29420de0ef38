import json

import pytest

from hct_lightning.report.write import report_at_end, write_report


def test_the_page_of_a_run_of_which_all_was_measured(full_run, tmp_path):
    page = write_report([full_run], tmp_path)
    text, summary = page.read_text(), page.with_name("report.md").read_text()
    for title in (
        "What ran",
        "Curves",
        "Time",
        "Predictions",
        "Artifacts",
        "Benchmark",
        "Hottest operators",
        "Commands",
    ):
        assert f"<h2>{title}</h2>" in text
        assert f"## {title}\n" in summary
    assert 'class="missing"' not in text
    assert "<b>owl" not in text
    assert "&lt;b&gt;owl&lt;/b&gt;" in text
    # The worst and all that are right; an overlay and a receptive field.
    assert text.count("data:image/jpeg;base64,") == 6 + 5 + 2
    assert "data.root=my photos" in summary


def test_what_is_missing_is_said_with_the_command_that_makes_it(make_run, tmp_path):
    page = write_report([make_run()], tmp_path).read_text()
    for command in ("task=validate", "task=export", "export.percentages", "benchmark=inference", "debug=profile"):
        assert command in page


def test_a_run_without_classes_is_asked_for_none(make_run, tmp_path):
    run = make_run()
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(
        json.dumps(record | {"task": "pretrain", "classes": [], "metrics": {"val/loss": 0.5}})
    )
    summary = write_report([run], tmp_path).with_name("report.md").read_text()
    assert "none: it learns to fill hidden blocks" in summary
    assert f"ckpt={run}/checkpoints/best.ckpt data=folder" in summary
    for verb in ("validate", "export", "explain", "benchmark"):
        assert f"task={verb}" not in summary


def test_a_run_that_has_only_begun(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text('{"status": "failed", "reason": "no images"}')
    text = write_report([tmp_path / "run"], tmp_path).read_text()
    assert "no images" in text
    assert "no epoch has been finished" in text


def test_runs_side_by_side_tell_the_speed_up(make_run, tmp_path):
    page = write_report([make_run("one"), make_run("two", ranks=2)], tmp_path)
    summary = page.with_name("report.md").read_text()
    assert "2 runs, 2 of them completed" in summary
    (two,) = [line for line in summary.splitlines() if line.startswith("| two | 2 |")]
    faster = [cell.strip() for cell in two.split("|")][-4:-1]
    assert faster == ["2.00", "1.67", "1.71"]  # loading; training, which waits; running
    assert "| rank 1 |" in summary


def test_the_paper_beside_runs(make_run, full_run, tmp_path):
    runs = [full_run, make_run("two", ranks=2)]
    text = write_report(runs, tmp_path, against="paper").read_text()
    for title in ("learning", "time of an epoch", "inference", "before and after quantization"):
        assert f"<h2>The paper: {title}</h2>" in text
    assert "paper, 4 GPUs" in text
    with pytest.raises(ValueError, match=r"report\.against=theirs: choose paper"):
        write_report(runs, tmp_path, against="theirs")


def test_a_report_that_fails_is_a_line(make_run, caplog):
    folder = make_run()
    (folder / "metrics.csv").write_text("step,epoch,val/loss\nx,y,z\n")
    assert report_at_end([folder]) is None
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.message.startswith("no report was written: ValueError: ")
    assert "\n" not in record.message


def test_a_picture_from_elsewhere_is_not_shown(full_run, tmp_path):
    """What a stranger's folder links to would else be in the page."""
    (tmp_path / "private.jpg").write_bytes(b"private")
    picture = full_run / "validate" / "best" / "0.jpg"
    picture.unlink()
    picture.symlink_to(tmp_path / "private.jpg")
    with pytest.raises(ValueError, match=r"0\.jpg leads to .*private\.jpg, outside of the run's folder"):
        write_report([full_run], tmp_path)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("explain/explain.json", {"images": [{"maps": {"gradient": {}}}]}),
        ("explain/explain.json", {"receptive_field": [3]}),
        ("export/openvino_int8.json", {"rows": [{"accuracy": 1}]}),
        ("benchmark/benchmark.json", {"rows": 3}),
        ("benchmark/benchmark.json", {"rows": [{"side": "x", "size": 1, "batch": 1, "p50_s": "x"}]}),
    ],
)
def test_a_measurement_that_was_changed_is_named(full_run, tmp_path, file, content):
    (full_run / file).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"{full_run}/{file.split('/')[0]}/.*json is damaged: .*; remove it"):
        write_report([full_run], tmp_path)
