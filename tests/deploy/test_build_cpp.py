"""Building the C++ program. What it does: test_cpp.py."""

import pytest

from hct_lightning.deploy.build_cpp import build


def test_without_cmake_the_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ImportError, match="apt-get install -y cmake g"):
        build(tmp_path / "cpp")
