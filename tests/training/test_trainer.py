"""What a trainer is built with, and what not."""

import pytest
from hydra import compose, initialize_config_module
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from hct_lightning.callbacks.average_weights import AverageWeights
from hct_lightning.cli.plain import plain
from hct_lightning.machine.devices import choose_devices
from hct_lightning.training.trainer import build_trainer, ddp_options


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("trainer.accumulate_grad_batches=4", r"accumulate_grad_batches=4: .* larger data.batch_size .* micro_batches"),
        ("trainer.use_distributed_sampler=true", r"use_distributed_sampler=true: .* leave it out"),
        ("trainer.limit_train_batches=0", r"limit_train_batches=0 trains nothing"),
        ("trainer.limit_train_batches=0.5", r"limit_train_batches=0\.5 could end within a step, which has 2 micro"),
    ],
)
def test_what_means_something_else_here_is_refused_with_what_to_give_instead(option, message, tmp_path):
    with initialize_config_module("hct_lightning.conf", version_base="1.3"):
        cfg = compose("config", overrides=[option])
    devices = choose_devices("cpu", 1, 1, 1)
    with pytest.raises(ValueError, match=message):
        build_trainer(plain(cfg.trainer), tmp_path, devices, callbacks=[], micro_batches=2)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            "trainer.limit_val_batches=1",
            r"limit_val_batches=1 would validate the first classes alone; .* data.limit_valid",
        ),
        ("trainer.limit_val_batches=0.5", r"limit_val_batches=0\.5 would validate the first classes alone"),
        ("trainer.max_epochs=0", r"^trainer\.max_epochs=0 trains nothing"),
        ("trainer.max_steps=0", r"^trainer\.max_steps=0 trains nothing"),
        ("trainer.max_time=10", r'^trainer\.max_time=10: give DD:HH:MM:SS, as "00:00:10:00" for ten minutes$'),
        ("trainer.max_time=10:00", r"^trainer\.max_time=10:00: give DD:HH:MM:SS"),
    ],
)
def test_what_would_train_or_validate_too_little_is_refused(option, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        built(tmp_path, option)


@pytest.mark.parametrize(
    ("options", "batches"),
    [
        (["trainer.limit_val_batches=1.0", "trainer.max_time=00:00:10:00"], 1.0),
        (["trainer.limit_val_batches=3", "trainer.fast_dev_run=true", "+trainer.max_time.minutes=10"], 1),
    ],
)
def test_all_of_validation_or_one_batch_on_trial(options, batches, tmp_path):
    assert built(tmp_path, *options).limit_val_batches == batches


def built(tmp_path, *options):
    with initialize_config_module("hct_lightning.conf", version_base="1.3"):
        cfg = compose("config", overrides=list(options))
    return build_trainer(plain(cfg.trainer), tmp_path, choose_devices("cpu", 1, 1, 1), callbacks=[], gradient_bytes=9)


def built_without_validation(tmp_path, *callbacks):
    with initialize_config_module("hct_lightning.conf", version_base="1.3"):
        cfg = compose("config", overrides=["trainer.limit_val_batches=0"])
    return build_trainer(
        plain(cfg.trainer), tmp_path, choose_devices("cpu", 1, 1, 1), callbacks=list(callbacks), gradient_bytes=9
    )


def test_what_is_left_out_without_validation_is_said(tmp_path, caplog):
    built_without_validation(tmp_path, ModelCheckpoint(dirpath=tmp_path, monitor="val/accuracy"))
    assert "nothing is validated, so there will be no checkpoint best" in caplog.text
    assert "BatchNorm" not in caplog.text
    built_without_validation(tmp_path, AverageWeights(span=0.5))
    assert "give callbacks=plain" in caplog.text


def test_nothing_waits_for_a_validation_that_never_comes(tmp_path):
    built_without_validation(tmp_path, EarlyStopping("train/loss"))
    with pytest.raises(
        ValueError, match=r"^trainer\.limit_val_batches=0: EarlyStopping waits for val/loss, .* leave one"
    ):
        built_without_validation(tmp_path, EarlyStopping("val/loss"))


def test_options_count_steps_and_not_micro_batches(tmp_path):
    options = ["trainer.limit_train_batches=3", "trainer.val_check_interval=2"]
    with initialize_config_module("hct_lightning.conf", version_base="1.3"):
        cfg = compose("config", overrides=options)
    built = build_trainer(plain(cfg.trainer), tmp_path, choose_devices("cpu", 1, 1, 1), callbacks=[], micro_batches=2)
    assert (built.limit_train_batches, built.val_check_interval) == (6, 4)


@pytest.mark.parametrize(
    ("accelerator", "gradient_mb", "bucket_mb"),
    [("cuda", 7, 1), ("cuda", 100, 12.5), ("cuda", 1000, 25), ("cpu", 7, 25)],
)
def test_gradients_travel_in_about_eight_buckets_on_gpus(accelerator, gradient_mb, bucket_mb):
    options = ddp_options(accelerator, gradient_mb * 2**20)
    assert options["bucket_cap_mb"] == bucket_mb
    assert options["gradient_as_bucket_view"]
