"""What a run that goes on does otherwise."""

from hydra import compose, initialize_config_module

from hct_lightning.cli.changes import differences, options_of_training, say_changes


def options(*overrides: str) -> dict:
    with initialize_config_module("hct_lightning.conf", version_base="1.3"):
        return options_of_training(compose("config", overrides=list(overrides)))


def test_changes_are_said_as_on_the_command_line():
    before = options("optim.lr=0.001", "data=store", "data.root=https://me:secret@host/store")
    assert "secret" not in str(before)
    assert differences(before, before) == []
    assert differences({}, before) == []  # of a run that did not write them down
    now = options("optim.lr=0.01", "data=store", "schedule=constant", "seed=3")
    assert differences(before, now) == [
        "data.seed=3 instead of 0",
        "optim.lr=0.01 instead of 0.001",
        "schedule._target_=hct_lightning.training.schedules.constant instead of "
        "hct_lightning.training.schedules.cosine",
        "seed=3 instead of 0",
        "no schedule.warmup_epochs",
        "no schedule.final",
    ]


def test_an_option_of_a_newer_version_that_is_null_changes_nothing():
    now = options()
    before = {name: value for name, value in now.items() if name not in ("data.train_fraction", "optim.lr")}
    assert differences(before, now) == [f"optim.lr={now['optim.lr']}"]


def test_averages_of_the_weights_are_among_them():
    assert differences(options(), options("callbacks.average.span=0.1", "~callbacks.batch_norm")) == [
        "callbacks.average.span=0.1 instead of 0.31",
        "no callbacks.batch_norm._target_",
        "no callbacks.batch_norm.images",
        "no callbacks.batch_norm.freeze",
    ]


def test_other_images_are_said(caplog):
    earlier = {"data": {"images": {"train": 8, "valid": 2}}}
    say_changes(earlier, options(), {"train": 9, "valid": 2})
    assert "the data has {'train': 9, 'valid': 2} images, before it had {'train': 8, 'valid': 2}" in caplog.text
