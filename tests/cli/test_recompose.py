"""`run=<folder>` takes that run's own command line, with what is given now on top."""

import json
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from hct_lightning.cli.recompose import absolute_paths, key_of, recompose


@pytest.fixture
def earlier(tmp_path) -> Path:
    hydra = tmp_path / "run" / ".hydra"
    hydra.mkdir(parents=True)
    (hydra / "overrides.yaml").write_text(
        "- data=folder\n- data.root=/photos\n- data.resolution=512\n- +experiment=mine\n- seed=3\n"
        "- task=fit\n- hydra.run.dir=elsewhere\n"
    )
    return tmp_path / "run"


def test_recompose_takes_the_runs_overrides_and_lets_the_command_line_win(earlier):
    args = recompose(["task=validate", f"run={earlier}", "seed=4"])
    assert args[:4] == [
        "data=folder",
        "data.root=/photos",
        "data.resolution=512",
        "+experiment=mine",
    ]
    assert {"task=validate", "seed=4", f'run="{earlier}"', f'hydra.run.dir="{earlier}"'} <= set(args)
    assert not {"seed=3", "task=fit", "hydra.run.dir=elsewhere"} & set(args)
    assert recompose(args) == args  # ranks that are started with the expanded line expand it again


def test_recompose_reads_what_a_run_recorded_by_an_earlier_name(earlier):
    recorded = earlier / ".hydra" / "overrides.yaml"
    recorded.write_text(recorded.read_text() + "- trainer.accumulate_grad_batches=3\n")
    args = recompose([f"run={earlier}"])
    assert "micro_batches=3" in args
    assert not [arg for arg in args if "accumulate_grad_batches" in arg]
    args = recompose([f"run={earlier}", "micro_batches=2"])
    assert [arg for arg in args if "micro_batches" in arg] == ["micro_batches=2"]


@pytest.mark.parametrize(("was", "now"), [("averaged", "default"), ("default", "plain"), ("early_stopping", None)])
def test_a_run_from_before_there_were_recipes_keeps_its_own(earlier, was, now):
    recorded, choices = (earlier / ".hydra" / name for name in ("overrides.yaml", "hydra.yaml"))
    recorded.write_text(recorded.read_text() + f"- callbacks={was}\n")
    choices.write_text("hydra: {runtime: {choices: {data: folder, callbacks: averaged}}}")
    args = recompose([f"run={earlier}"])
    assert {"recipe=plain", f"callbacks={now or was}"} <= set(args)
    assert "recipe=plain" not in recompose([f"run={earlier}", "recipe=null"])
    for others in ("{data: folder, recipe: null}", "7"):  # the last one is damaged
        choices.write_text(f"hydra: {{runtime: {{choices: {others}}}}}")
        args = recompose([f"run={earlier}"])
        assert f"callbacks={was}" in args
        assert "recipe=plain" not in args


def test_a_run_from_before_there_were_recipes_keeps_its_optimiser_and_weights(earlier):
    recorded, choices = (earlier / ".hydra" / name for name in ("overrides.yaml", "hydra.yaml"))
    recorded.write_text("- +experiment=demo\n- callbacks=early_stopping\n")
    choices.write_text("hydra: {runtime: {choices: {data: scenes, callbacks: early_stopping}}}")
    args = recompose([f"run={earlier}"])
    with initialize_config_module("hct_lightning.conf", version_base="1.3"):
        cfg = compose("config", [arg for arg in args if not arg.startswith(("hydra.", "run="))])
    assert cfg.optim.optimizer._target_ == "torch.optim.AdamW"
    assert "early_stopping" in cfg.callbacks
    assert not {"average", "batch_norm"} & set(cfg.callbacks)
    assert cfg.model.drop_path_rate == 0
    assert cfg.trainer.max_epochs == 5
    assert "optim=adamw" not in recompose([f"run={earlier}", "optim=sgd"])


def test_of_an_option_that_was_given_twice_the_last_counts(earlier):
    recorded = earlier / ".hydra" / "overrides.yaml"
    recorded.write_text("- trainer.max_epochs=2\n- trainer.max_epochs=1\n")
    assert [arg for arg in recompose([f"run={earlier}"]) if "max_epochs" in arg] == ["trainer.max_epochs=1"]
    args = recompose([f"run={earlier}", "trainer.max_epochs=2"])
    assert [arg for arg in args if "max_epochs" in arg] == ["trainer.max_epochs=2"]


def test_recompose_with_other_data_keeps_what_all_data_sets_share(earlier):
    args = recompose([f"run={earlier}", "data=scenes"])
    assert "data.resolution=512" in args
    assert "data=folder" not in args
    assert "data.root=/photos" not in args  # a root is of its own data set


def test_recompose_with_other_artifacts_keeps_what_all_exports_share(earlier):
    recorded = earlier / ".hydra" / "overrides.yaml"
    mine = ["export.evaluation=7", "export.openvino_int8.percent=50"]
    recorded.write_text(recorded.read_text() + "".join(f"- {override}\n" for override in mine))
    args = recompose(["task=export", f"run={earlier}", "export=[torchscript]"])
    assert mine[0] in args
    assert mine[1] not in args


def test_the_report_of_a_sweep_is_made_in_its_folder_and_runs_no_point(tmp_path):
    (tmp_path / "multirun.yaml").write_text("hydra: {runtime: {cwd: .}, overrides: {hydra: [], task: ['seed=1,2']}}\n")
    args = recompose(["task=report", f"run={tmp_path}"])
    assert {"task=report", f'run="{tmp_path}"', f'hydra.run.dir="{tmp_path}"'} <= set(args)
    assert not {"-m", "seed=1,2"} & set(args)
    assert "-m" in recompose([f"run={tmp_path}"])


def test_recompose_finds_the_run_of_a_checkpoint_but_not_to_fine_tune(earlier):
    args = recompose(["task=predict", f"ckpt={earlier}/checkpoints/best.ckpt"])
    assert f'run="{earlier}"' in args
    fine_tune = [f"ckpt={earlier}/checkpoints/best.ckpt"]
    assert recompose(fine_tune) == fine_tune


def test_a_run_that_learned_without_labels_goes_on_so(earlier):
    recorded = earlier / ".hydra" / "overrides.yaml"
    recorded.write_text(
        recorded.read_text().replace("task=fit", "task=pretrain") + "- pretrain.hidden=0.5\n- ~callbacks.best\n"
    )
    args = recompose([f"run={earlier}"])
    assert {"task=pretrain", "pretrain.hidden=0.5", "~callbacks.best"} <= set(args)
    assert recompose(args) == args
    for verb in ("fit", "validate"):  # which have no such options, and say why they can't go on
        args = recompose([f"task={verb}", f"run={earlier}"])
        assert f"task={verb}" in args
        assert not {"pretrain.hidden=0.5", "~callbacks.best"} & set(args)
    begun = ["task=pretrain", f"ckpt={earlier}/checkpoints/best.ckpt"]
    assert recompose(begun) == begun


def test_what_a_run_went_on_with_holds_when_it_goes_on_again(earlier):
    (earlier / "run.json").write_text(json.dumps({"since": ["seed=5", "optim.lr=0.1", "data=csv"]}))
    args = recompose([f"run={earlier}", "optim.lr=0.2"])
    assert {"seed=5", "data=csv", "optim.lr=0.2", "data.resolution=512"} <= set(args)
    assert not {"seed=3", "optim.lr=0.1", "data=folder", "data.root=/photos"} & set(args)
    assert args.index("seed=5") < args.index("task=fit") < args.index("optim.lr=0.2")  # behind it, what is given now
    assert recompose(args) == args


def test_paths_mean_what_they_meant_where_the_run_began(earlier, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = OmegaConf.create({"data": {"root": "photos", "cache": "cache"}, "fit": {"against": None}})
    paths = absolute_paths(cfg)
    assert paths == {"data.root": f"{tmp_path}/photos"}
    assert absolute_paths(OmegaConf.create({"data": {"root": "s3://bucket"}})) == {"data.root": "s3://bucket"}
    (earlier / "run.json").write_text(json.dumps({"paths": paths}))
    args = recompose([f"run={earlier}"])
    assert f'data.root="{tmp_path}/photos"' in args
    assert not [arg for arg in args if key_of(arg) == "data.cache"]  # of a default, and not there: as it is said here
    assert recompose(args) == args
    (earlier / "run.json").write_text(json.dumps({"paths": {"data.root": "https://***@host/a"}}))
    assert "data.root=/photos" in recompose([f"run={earlier}"]), "what is hidden is read where it stands whole"
    args = recompose([f"run={earlier}", "data.root=other"])
    assert [arg for arg in args if key_of(arg) == "data.root"] == ["data.root=other"]


def test_paths_of_a_sweep_mean_what_they_meant_where_it_began(tmp_path, monkeypatch):
    """Nothing is believed of the folder where that was: Python, and others, would run what a stranger has put there."""
    home, sweep = tmp_path / "home", tmp_path / "sweep"
    home.mkdir()
    sweep.mkdir()
    monkeypatch.chdir(home)
    monkeypatch.setenv("HCT_DATA", "drawn")
    written = f'+hydra.job.env_set.HCT_DATA="{home}/drawn"'
    assert recompose(["-m", "seed=1,2"]) == ["-m", "seed=1,2", written]
    given = ["data.root=photos,'/my scans',s3://a/b", "+fit.against='~/run'", "data.root=/a,/b", "data.root=null"]
    whole = [f'data.root="{home}/photos","/my scans","s3://a/b"', f'+fit.against="{Path.home()}/run"', *given[2:]]
    assert recompose(["-m", *given]) == ["-m", *whole, written]
    config: dict[str, Any] = {"hydra": {"runtime": {"cwd": str(home)}}}
    config["hydra"]["overrides"] = {"hydra": [written], "task": ['data.root="/photos"', "seed=1,2"]}
    (sweep / "multirun.yaml").write_text(json.dumps(config))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HCT_DATA", "elsewhere")
    args = ["-m", written, 'data.root="/photos"', "seed=1,2", f'hydra.sweep.dir="{sweep}"']
    assert recompose(["run=sweep"]) == args
    assert Path.cwd() == tmp_path
    config["hydra"]["overrides"]["task"] = ["data.root=photos"]
    (sweep / "multirun.yaml").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"multirun\.yaml says 'data\.root=photos', without the folder"):
        recompose(["run=sweep"])
    assert recompose(["run=sweep", "data.root=/photos"])[-2] == "data.root=/photos"


@pytest.mark.parametrize(("said", "means"), [("0,1", "[0,1]"), ("2,", "[2]"), ("3", "3"), ("auto", "auto")])
def test_gpus_by_number_need_no_quotes_within_quotes(said, means):
    assert recompose([f"trainer.devices={said}"]) == [f"trainer.devices={means}"]
    assert recompose(["-m", "trainer.devices=1,2"])[1] == "trainer.devices=1,2"  # a sweep


def test_a_group_can_be_null(earlier):
    recorded = earlier / ".hydra" / "overrides.yaml"
    recorded.write_text(recorded.read_text() + "- logger=wandb\n- logger.wandb.mode=offline\n")
    args = recompose([f"run={earlier}", "logger=null", "ckpt=null", "hydra/launcher=null"])
    assert {"logger=[]", "ckpt=null", "hydra/launcher=null"} <= set(args)
    assert not {"logger=wandb", "logger.wandb.mode=offline"} & set(args)
    swept = recompose(["-m", "logger=null,wandb", "recipe=plain,null", "+experiment=null", "data.window=null,[0,null]"])
    assert swept[1:5] == ["logger=[],wandb", "recipe=plain,[]", "+experiment=[]", "data.window=null,[0,null]"]
    with initialize_config_module("hct_lightning.conf", version_base="1.3"):
        assert compose("config", overrides=recompose(["logger=null"])) == compose("config")


def test_a_run_without_a_recipe_goes_on_without(earlier):
    """It is not one from before there were recipes, though Hydra lists no choice of a group that is []."""
    (earlier / ".hydra" / "hydra.yaml").write_text("hydra: {runtime: {choices: {callbacks: early_stopping}}}")
    recorded = earlier / ".hydra" / "overrides.yaml"
    assert "recipe=plain" in recompose([f"run={earlier}"])
    recorded.write_text(recorded.read_text() + "- recipe=[]\n")
    args = recompose([f"run={earlier}"])
    assert "recipe=[]" in args
    assert not {"recipe=plain", "~callbacks.average"} & set(args)


@pytest.mark.parametrize("nothing", ["schedule=null", "schedule=[]", "schedule=goyal,null"])
def test_a_group_that_a_run_needs_is_not_left_out(nothing):
    with pytest.raises(ValueError, match=r"a run needs one of .*cosine, "):
        recompose([nothing])


@pytest.mark.parametrize("name", ['a"b', "a\\", "a${oc.env:HOME}", "a\\${x}"])
def test_a_folder_whose_name_would_mean_something_else_is_refused(tmp_path, name):
    (tmp_path / name / ".hydra").mkdir(parents=True)
    (tmp_path / name / ".hydra" / "overrides.yaml").write_text("[]")
    with pytest.raises(ValueError, match="Hydra takes no path with"):
        recompose([f"run={tmp_path / name}"])


def test_a_run_goes_on_in_its_own_folder(earlier, tmp_path):
    assert f'hydra.run.dir="{earlier}"' in recompose([f"run={earlier}"])
    assert f"hydra.run.dir={earlier}" in recompose([f"run={earlier}", f"hydra.run.dir={earlier}"])
    assert "hydra.run.dir=other" in recompose(["task=validate", f"run={earlier}", "hydra.run.dir=other"])
    with pytest.raises(ValueError, match=r"goes on in its own folder, and hydra\.run\.dir=other is another; leave one"):
        recompose([f"run={earlier}", "hydra.run.dir=other"])


def test_what_a_run_went_on_with_is_asked_for_again_where_its_secret_is_gone(earlier):
    (earlier / "run.json").write_text(json.dumps({"since": ["data.root=https://***@host/store"]}))
    with pytest.raises(ValueError, match=r"https://\*\*\*@host/store', whose secret is not kept; give it again"):
        recompose([f"run={earlier}"])
    args = recompose([f"run={earlier}", "data.root=https://me:pw@host/store"])
    assert [arg for arg in args if arg.startswith("data.root")] == ["data.root=https://me:pw@host/store"]


def test_a_folder_may_have_a_number_for_its_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    cfg = OmegaConf.create({"data": {"root": 2024}, "fit": {"against": None}})
    assert absolute_paths(cfg) == {"data.root": f"{tmp_path}/2024"}
