"""What a configuration may name."""

import re

import pytest

from hct_lightning.cli.allowed import check_targets


@pytest.mark.parametrize(
    ("where", "target"),
    [
        ("model", "timm.create_model"),
        ("callbacks.x", "lightning.pytorch.callbacks.EMAWeightAveraging"),
        ("callbacks.x.metric", "torchmetrics.classification.MulticlassAccuracy"),
        ("optim.optimizer", "torch.optim.Muon"),
        ("schedule", "torch.optim.lr_scheduler.StepLR"),
        ("trainer.strategy", "lightning.pytorch.strategies.FSDPStrategy"),
        ("trainer.plugins[0]", "lightning.pytorch.plugins.environments.SLURMEnvironment"),
        ("trainer.profiler", "hct_lightning.training.profiler.StepProfiler"),
        ("benchmark.data.source", "hct_lightning.data.sources.scenes.scenes"),
    ],
)
def test_public_classes_are_welcome_where_they_belong(where, target):
    check_targets({"_target_": target}, where=where)


@pytest.mark.parametrize(
    ("where", "target"),
    [
        ("callbacks.x", "os.system"),
        ("callbacks.x", "builtins.eval"),
        ("callbacks.x", "lightning_evil.X"),
        ("callbacks.x", "lightning.fabric.utilities.cloud_io._load"),
        ("callbacks.x", "lightning.pytorch.callbacks.ModelCheckpoint.__init__"),
        ("callbacks.x", "lightning.pytorch.callbacks.ModelCheckpoint.to_yaml"),
        ("callbacks.x", "lightning.pytorch.cli.LightningCLI"),
        ("callbacks.x", "lightning.pytorch.loggers.MLFlowLogger"),
        ("callbacks.x", "hydra.utils.get_method"),
        ("callbacks.x", "hct_lightning.__main__"),
        ("callbacks.x", "hct_lightning.app.os.system"),
        ("callbacks.x", "hct_lightning.app.main"),
        ("callbacks.x", "hct_lightning.benchmarks.inference.benchmark.benchmark"),
        ("callbacks.benchmark", "hct_lightning.benchmarks.inference.benchmark.benchmark"),
        ("optim.optimizer", "torch.optim.adam.torch.hub.load"),
        ("model", "timm.models.load_checkpoint"),
        ("model", "hct_lightning.training.checkpoints.load_network"),
        ("model", ["os.system"]),
        ("model", None),
    ],
)
def test_everything_else_is_refused_wherever_it_hides(where, target):
    with pytest.raises(ValueError, match=re.escape(f"{where}.deep[0].x._target_={target}")) as refused:
        check_targets({"deep": [{"x": {"_target_": target, "_args_": ["x"], "path": "os.system"}}]}, where=where)
    assert "\n" not in str(refused.value)


def test_a_name_that_is_not_there_is_said():
    with pytest.raises(ValueError, match=r"torch\.optim\.Adamm can't be found"):
        check_targets({"_target_": "torch.optim.Adamm"}, where="optim")


def test_targets_of_users_are_welcome_when_they_say_so():
    node = {"_target_": "collections.Counter"}
    with pytest.raises(ValueError, match=r"safety\.allow=\[collections\]"):
        check_targets(node)
    check_targets(node, allow=["collections"])
