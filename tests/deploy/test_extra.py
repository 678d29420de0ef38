"""A runtime that is not installed is named with the extra that brings it."""

import importlib

import pytest

from hct_lightning.deploy.extra import extra


def test_the_extra_is_named():
    said = r"abacus is not installed: pip install 'hct-lightning\[deploy\]'"
    with pytest.raises(ImportError, match=said) as raised, extra("deploy"):
        importlib.import_module("abacus")
    assert raised.value.name == "abacus"
