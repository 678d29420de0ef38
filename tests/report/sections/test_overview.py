import json

from hct_lightning.report.files import open_runs
from hct_lightning.report.sections.overview import command, commands, key_figures, overview


def test_what_ran_on_what_on_which_data(make_run):
    a, b = open_runs([make_run("a"), make_run("b", ranks=2)])
    own, shared = (block.rows for block in overview([a, b]).blocks)
    assert own == [["ranks", "1", "2"], ["folder", str(a.folder), str(b.folder)]]
    rows = dict(shared)
    assert rows["data"] == "folder /photos"
    assert rows["files, px"] == "100x200 to 300x400"
    assert rows["GPU"] == "none"
    assert rows["began"] == "2026-11-24 00:34 UTC"
    assert "reason" not in rows
    (alone,) = overview([a]).blocks
    assert len(alone.rows) == len(own) + len(shared)


OPTIONS = {
    "model._target_": "hct_lightning.models.HCT",
    "model.conv_stages": 3,
    "optim.lr": 0.002,
    "optim.reference_batch": 8,
    "optim.optimizer._target_": "torch.optim.AdamW",
    "schedule._target_": "hct_lightning.training.schedules.cosine",
    "trainer.max_epochs": 5,
    "data.flip": 0.5,
    "data.reduce_to": None,
    "seed": 0,
}


def test_network_and_recipe_and_the_options_that_differ(make_run):
    folders = [make_run("a"), make_run("b")]
    for folder, changed in zip(folders, ({}, {"data.reduce_to": 128, "seed": 1}), strict=True):
        record = json.loads((folder / "run.json").read_text()) | {"options": OPTIONS | changed}
        (folder / "run.json").write_text(json.dumps(record | {"network": {"parameters": 1_739_092, "gmac": 1.0}}))
    own, shared = (block.rows for block in overview(open_runs(folders)).blocks)
    assert own[:2] == [["seed", "0", "1"], ["folder", *map(str, folders)]]
    assert own[2:] == [["data.reduce_to", "None", "128"]]
    rows = dict(shared)
    assert rows["network"] == "HCT, 3 convolution stages, 1.74 M parameters"
    assert rows["optimiser"] == "AdamW, lr 0.002 at a batch of 8, cosine schedule"
    assert rows["to train for"] == "5 epochs"


def test_key_figures_and_commands(full_run):
    (run,) = open_runs([full_run])
    assert dict(key_figures(run)) == {
        "Validation accuracy, best": "75.0%",
        "Trained": "10.0 images/s",
        "In all": "72 s",
        "Peak memory": "1.50 GiB",
        "Smallest artifact": "2.00 MB",
    }
    (block,) = commands([run], "made by").blocks
    assert [text for _, text in block.commands] == [run.command, "made by"]
    assert (
        command("export", run, "export=[onnx]") == f"python -m hct_lightning task=export run={full_run} 'export=[onnx]'"
    )


def test_another_metric_that_chose_the_checkpoint_is_no_accuracy(make_run):
    folder = make_run("a")
    record = json.loads((folder / "run.json").read_text())
    record["metrics"] = {"val/accuracy": 0.5, "best/auroc": 0.9}
    (folder / "run.json").write_text(json.dumps(record))
    assert dict(key_figures(*open_runs([folder])))["Validation accuracy, last epoch"] == "50.0%"


def test_how_a_run_went_on(make_run):
    folder = make_run()
    record = json.loads((folder / "run.json").read_text()) | {"since": ["trainer.max_epochs=9", "mine.token=canary"]}
    (folder / "run.json").write_text(json.dumps(record))
    (block,) = commands(open_runs([folder]), "made by").blocks
    went_on = f"python -m hct_lightning run={folder} trainer.max_epochs=9 mine.token=***"
    assert block.commands[1] == ("How run went on", went_on)
