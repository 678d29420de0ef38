"""What is believed of a folder that a stranger may have made."""

import pytest

from hct_lightning.cli.recompose import recompose
from hct_lightning.cli.recorded import is_believed


@pytest.mark.parametrize(
    "override",
    [
        "data=folder",
        "data.root='/my photos/a'",
        "data.root=s3://bucket/store",
        "data.root='http://127.0.0.1:80/store'",
        "data.root=/a:b,/c",
        "data.resolution=[3328,2560]",
        "data.resolution=256,512",
        "+experiment=mine",
        "seed=range(0,1000000000000)",
        "drop_path_rate=0,0.1",
        "compile=true",
        "optim.lr=1e-3",
        "model=timm",
        "model.model_name=resnet18",
        "export=[torchscript,openvino_int8]",
        "~callbacks.progress",
        "callbacks.best.monitor=val/loss",
        "callbacks.best.filename=best",
        "+callbacks.ema={_target_: lightning.pytorch.callbacks.EMAWeightAveraging, decay: 0.9}",
        "logger=[wandb,tensorboard]",
        "logger.wandb.mode=offline",
        "logger.wandb.project=scans",
        "trainer.devices='0,1'",
        "trainer.max_time=00:01:00:00",
        "trainer.profiler=simple",
        "loss.class_weights=balanced",
        "gradients=k_async",
        "gradients.delays={distribution: pareto, slower: {3: 2.5}}",
    ],
)
def test_what_a_run_is_made_of_is_believed(override):
    assert is_believed(override)


@pytest.mark.parametrize(
    "override",
    [
        # Runs something.
        "safety.allow=[os]",
        "+hydra.callbacks.x={_target_: os.system, command: x}",
        "hydra/launcher=evil",
        "hydra.launcher._target_=evil",
        "hydra.job_logging.handlers.x={(): os.system}",
        "hydra.searchpath=[/evil]",
        "data@hydra.callbacks=evil",
        "+experiment=../../evil",
        "+experiment='/evil'",
        "slurm.setup=[evil]",
        "--experimental-rerun=evil.pickle",
        "--config-dir=/evil",
        "-m",
        "benchmark.cpp=evil",
        # Writes elsewhere.
        "predict.output=.bashrc",
        "prepare.output=/home",
        "callbacks.best.dirpath=elsewhere",
        "callbacks.best.filename=../../x",
        "+callbacks.x={_target_: lightning.pytorch.callbacks.ModelCheckpoint, dirpath: x}",
        "+callbacks.x={_target_: lightning.pytorch.callbacks.ModelCheckpoint, _args_: [x]}",
        "+callbacks.x=[{a: {'b': '~/x'}}]",
        "trainer.default_root_dir=x",
        "data.cache=x",
        "model.checkpoint_path=evil.npz",
        # Begins more processes than there is room for.
        "trainer.devices=100000",
        "data.num_workers='99999999999999999999'",
        "runtime.threads=1,4000",
        # Sends something.
        "logger.wandb.entity=stranger",
        "+logger.wandb.settings.base_url=stranger",
        "+logger.x={_target_: lightning.pytorch.loggers.MLFlowLogger, tracking_uri: x}",
        "+trainer.model_registry=stranger",
        "data.root='https://stranger/${oc.env:SECRET}'",
        "data.root=https://stranger/$\\{oc.env:SECRET\\}",
        "data.root=ssh://stranger/x",
        "data.root=reference://::https://stranger/x",
        "data.root=reference::https://stranger/x",
        "data.root='https://stranger/x::https://y'",
        "data.root='simplecache::s3://x/y'",
        "data.root=s3://x/y,git://x/y",
        "data.root=${slurm.environment.KEY}",
        "seed=a,'${oc.env:HOME}'",
        "",
        "data.root",
        "=",
    ],
)
def test_what_could_do_more_is_not(override):
    assert not is_believed(override)


def test_what_is_left_out_is_said_and_can_be_given_again(tmp_path, capsys):
    recorded = tmp_path / ".hydra" / "overrides.yaml"
    recorded.parent.mkdir()
    recorded.write_text("- safety.allow=[mine]\n- model._target_=mine.Net\n- hydra/launcher=x\n- slurm.setup=[x]\n")
    args = recompose([f"run={tmp_path}"])
    assert "model._target_=mine.Net" in args
    assert not [arg for arg in args if "safety" in arg or "launcher" in arg or "setup" in arg]
    assert "says 'safety.allow=[mine]', which is not taken from there; give it again" in capsys.readouterr().err
    assert "safety.allow=[mine]" in recompose([f"run={tmp_path}", "safety.allow=[mine]"])
    assert not capsys.readouterr().err


def test_a_sweep_that_would_be_another_without_what_is_left_out_does_not_begin(tmp_path):
    file = tmp_path / "multirun.yaml"
    text = "hydra:\n  runtime: {cwd: .}\n  callbacks: {x: {_target_: os.system}}\n  overrides:\n    hydra: [%s]\n    task: [%s]\n"
    file.write_text(text % ("hydra.mode=MULTIRUN, \"hydra.sweeper.params.seed='1,2'\"", "data=folder, 'seed=1,2'"))
    args = recompose([f"run={tmp_path}"])
    assert {"-m", "hydra.sweeper.params.seed='1,2'", "data=folder", "seed=1,2"} >= set(args[:-1])
    for evil in ("hydra.launcher._target_=x", "'hydra.sweeper.params.safety.allow=[os]'", "safety.allow=x"):
        file.write_text(text % (evil, "data=folder"))
        with pytest.raises(ValueError, match=r"multirun\.yaml says .*, give it again"):
            recompose([f"run={tmp_path}"])


def test_a_sweep_on_slurm_goes_on_with_the_slurm_options_of_now(tmp_path):
    text = "hydra:\n  runtime: {cwd: .}\n  overrides:\n    hydra: []\n    task: [+slurm=cpu, 'slurm.setup=[evil]', seed=3]\n"
    (tmp_path / "multirun.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"says '\+slurm=cpu slurm\.setup=\[evil\]', which is not taken"):
        recompose([f"run={tmp_path}"])
    assert recompose([f"run={tmp_path}", "+slurm=node"])[:3] == ["-m", "seed=3", "+slurm=node"]
