import pytest

from hct_lightning.report.files import open_runs
from hct_lightning.report.sections.overview import command, commands, duration, key_figures, overview


def test_what_ran_on_what_on_which_data(make_run):
    a, b = open_runs([make_run("a"), make_run("b", ranks=2)])
    own, shared = (block.rows for block in overview([a, b]).blocks)
    assert own == [["ranks", "1", "2"], ["folder", str(a.folder), str(b.folder)]]
    rows = dict(shared)
    assert rows["data"] == "folder /photos"
    assert rows["files, px"] == "100x200 to 300x400"
    assert rows["GPU"] == "none"
    assert "reason" not in rows
    (alone,) = overview([a]).blocks
    assert len(alone.rows) == len(own) + len(shared)


def test_key_figures_and_commands(full_run):
    (run,) = open_runs([full_run])
    assert dict(key_figures(run)) == {
        "Validation accuracy, best": "75.0%",
        "Trained": "10.0 images/s",
        "In all": "1 min 12 s",
        "Peak memory": "1.50 GiB",
        "Smallest artifact": "2.00 MB",
    }
    (block,) = commands([run], "made by").blocks
    assert [text for _, text in block.commands] == [run.command, "made by"]
    assert (
        command("export", run, "export=[onnx]") == f"python -m hct_lightning task=export run={full_run} 'export=[onnx]'"
    )


@pytest.mark.parametrize(("seconds", "words"), [(4.25, "4.2 s"), (72.5, "1 min 12 s"), (7260, "2 h 1 min")])
def test_durations(seconds, words):
    assert duration(seconds) == words
