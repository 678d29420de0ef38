"""The view is built, and says what is missing, without a server; its keys: tests/callbacks/test_wandb_run.py."""

import pytest

from hct_lightning.report.wandb_workspace import LINES, TABLES, main, workspace


def test_a_section_for_each_kind_of_question():
    view = workspace("me", "hct-lightning")
    assert [section.name for section in view.sections] == ["At a glance", *LINES, *TABLES]
    assert (view.entity, view.project) == ("me", "hct-lightning")
    lines = [panel for section in view.sections if section.name in LINES for panel in section.panels]
    assert [tuple(panel.y) for panel in lines] == [keys for charts in LINES.values() for keys in charts.values()]
    assert view._to_model().display_name == "HCT-Lightning", "it is what the server takes"


def test_without_a_login_it_ends_with_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["wandb_workspace", "me", "hct-lightning"])
    for name in ("HOME", "NETRC", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(SystemExit, match=r"error: the workspace was not saved: .*wandb login"):
        main()
