"""Artifacts of which a percentage is in int8."""

import json
import shutil

import pytest


@pytest.mark.slow
def test_accuracy_size_and_time_against_the_percentage(cli, trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run, ignore=shutil.ignore_patterns("artifacts"))
    done = cli(
        "task=export",
        f"run={run}",
        "export=[torchscript_int8]",
        "export.percentages=[0,50,100]",
        "export.calibration=4",
        "export.evaluation=10",
        cwd=tmp_path,
    )
    result = json.loads((run / "export" / "torchscript_int8.json").read_text())
    int8 = [row["int8_convolutions"] + row["int8_linears"] for row in result["rows"]]
    assert int8 == [0, 20, 39]
    sizes = [row["size_bytes"] for row in result["rows"]]
    assert sizes == sorted(sizes, reverse=True)
    assert len(result["sensitivity"]) == 39
    figure = run / "export" / "torchscript_int8.png"
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert done.stdout.splitlines()[-1] == str(figure)
    assert not (run / "artifacts").exists()
