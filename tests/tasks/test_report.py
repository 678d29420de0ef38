import pytest
from omegaconf import OmegaConf

from hct_lightning.tasks.report import main


def test_fitting_ends_with_a_report_whose_place_it_tells(trained):
    assert "report/report.html" in (trained / "stdout.txt").read_text()
    summary = (trained / "report" / "report.md").read_text()
    for title in ("What ran", "Curves", "Time", "Predictions", "Artifacts", "Not measured yet", "Commands"):
        assert f"## {title}\n" in summary
    assert "data:image/jpeg;base64," in (trained / "report" / "report.html").read_text()


def test_the_report_of_a_run_is_made_again(cli, trained, tmp_path):
    before = (trained / ".hydra" / "overrides.yaml").read_text()
    done = cli("task=report", f"run={trained}", "report.against=paper", cwd=tmp_path)
    assert done.stdout.strip() == str(trained / "report" / "report.html")
    assert "The paper: learning" in (trained / "report" / "report.html").read_text()
    assert (
        f"python -m hct_lightning task=report run={trained} report.against=paper"
        in (trained / "report" / "report.md").read_text()
    )
    assert (trained / ".hydra" / "overrides.yaml").read_text() == before


def config(run=None, runs=()):
    return OmegaConf.create({"run": run, "report": {"runs": [str(path) for path in runs], "against": None}})


def test_several_runs_stand_side_by_side(trained, tmp_path, capsys):
    main(config(runs=[trained, trained.parent / "run"]), tmp_path)
    assert capsys.readouterr().out.strip() == str(tmp_path / "report" / "report.html")
    one = config()
    one.report.runs = str(trained)  # without brackets
    main(one, tmp_path)
    with pytest.raises(ValueError, match=r"none is not the folder of a run"):
        main(config(runs=[trained, tmp_path / "none"]), tmp_path)


def test_a_report_is_about_something(tmp_path):
    with pytest.raises(ValueError, match=r"give run=<folder>, or report\.runs="):
        main(config(), tmp_path)
