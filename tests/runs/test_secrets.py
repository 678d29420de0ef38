"""What is a secret, and what is shown in its place."""

import logging
import os

import pytest

from hct_lightning.runs import secrets


@pytest.fixture
def learnt(monkeypatch):
    """A configuration with secrets has been learnt."""
    before = os.umask(0o022)
    factory = logging.getLogRecordFactory()
    monkeypatch.setattr(secrets, "_values", set())
    secrets.learn({"slurm": {"environment": {"MINE": "canary-value", "NCCL_DEBUG": "INFO"}}, "seed": 3})
    yield
    logging.setLogRecordFactory(factory)
    os.umask(before)


@pytest.mark.parametrize(
    "name",
    [
        *("api_key", "logger.wandb.settings.api_key", "HF_TOKEN", "password", "aws.Secret_Key", "apiKey", "hftoken"),
        *("accessToken", "mysecret", "db_passwords", "secretkey", "x.Authorization", "PG_PWD", "auth", "sas.sig"),
    ],
)
def test_names_of_secrets(name):
    assert secrets.is_secret(name)
    assert secrets.hide_in({"a": {name: "x"}}) == {"a": {name: "***"}}
    assert secrets.hide(f"fit +{name}=x1/y seed=3") == f"fit +{name}=*** seed=3"
    assert secrets.hide(f"['{name}=x', 'seed=3']") == f"['{name}=***', 'seed=3']"


@pytest.mark.parametrize("name", ["runtime.keep_memory", "tokens", "monitor", "keyboard", "author", "design", "donkey"])
def test_other_names(name):
    assert not secrets.is_secret(name)
    assert secrets.hide(f"{name}=x") == f"{name}=x"


def test_values_are_hidden_where_their_names_are_gone(learnt, caplog):
    assert secrets.hide("it was canary-value, with INFO") == "it was ***, with INFO"
    assert secrets.hide_in(["+slurm.environment.NCCL_DEBUG=INFO"]) == ["+slurm.environment.NCCL_DEBUG=***"]
    assert secrets.hide("+slurm.environment={A: b, C: d} seed=1") == "+slurm.environment=*** seed=1"
    logging.getLogger("x").error("failed: %s", "canary-value")
    assert caplog.messages == ["failed: ***"]


def test_files_are_for_their_owner_from_then_on(learnt, tmp_path):
    (tmp_path / "x").touch()
    assert (tmp_path / "x").stat().st_mode & 0o077 == 0


def test_without_secrets_nothing_changes(tmp_path):
    before = logging.getLogRecordFactory()
    secrets.learn({"data": {"root": "/x", "key": None}, "seed": 3})
    assert logging.getLogRecordFactory() is before
    assert secrets.hide("data.root=/x/y") == "data.root=/x/y"


def test_a_password_in_a_url_is_a_secret_too(monkeypatch):
    monkeypatch.setattr(secrets, "_values", set())
    before, factory = os.umask(0o022), logging.getLogRecordFactory()
    secrets.learn({"data": {"root": "https://me:long-word@host/a"}})
    logging.setLogRecordFactory(factory)
    assert os.umask(before) == 0o077
    assert secrets.hide("401 for me:long-word") == "401 for ***"
    assert secrets.hide("data.root=https://ghp_0123@host/a") == "data.root=https://***@host/a"
    assert secrets.hide("data.root=https://me:word@host/a@b") == "data.root=https://***@host/a@b"


def test_a_password_may_hold_an_at_sign():
    assert secrets.hide("at https://me:p@ss@host/a and s3://b/c@d") == "at https://***@host/a and s3://b/c@d"
