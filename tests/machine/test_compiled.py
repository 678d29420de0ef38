"""C++ that is compiled when it is needed, and kept."""

from pathlib import Path

import pytest

from hct_lightning.machine.compiled import compiled_library

WITHOUT = "sums take longer than they could"


@pytest.fixture
def made(monkeypatch, tmp_path):
    """Compiles a program of two files."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "sum.h").write_text("#define MORE 1\n")
    (tmp_path / "sum.cpp").write_text('#include "sum.h"\nextern "C" int sum(int a, int b) { return a + b + MORE; }\n')
    return lambda: compiled_library(tmp_path, "sum.cpp", ("sum.h",), WITHOUT)


def test_it_is_compiled_once_and_anew_when_a_file_of_it_has_changed(made, tmp_path):
    kept = tmp_path / "cache" / "hct_lightning"
    assert made().sum(2, 3) == 6
    (first,) = kept.iterdir()
    before = first.stat()
    assert made().sum(2, 3) == 6
    assert first.stat().st_mtime_ns == before.st_mtime_ns
    (tmp_path / "sum.h").write_text("#define MORE 0\n")
    assert made().sum(2, 3) == 5
    assert len(list(kept.iterdir())) == 2


def test_without_a_compiler_there_is_none(made, monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with caplog.at_level("INFO"):
        assert made() is None
    assert WITHOUT in caplog.text
    assert "a C++ compiler is needed: g++" in caplog.text
    assert not (tmp_path / "cache").exists()


def test_with_a_compiler_that_can_not_compile_it_there_is_none(made, tmp_path, caplog):
    (tmp_path / "sum.h").write_text("no C++\n")
    with caplog.at_level("INFO"):
        assert made() is None
    assert f"{WITHOUT}: c++ could not compile sum.cpp: " in caplog.text
    assert "sum.h:1:1: error: " in caplog.text
    assert not list((tmp_path / "cache" / "hct_lightning").iterdir())


def test_nothing_is_run_from_where_others_may_write(made, tmp_path, caplog):
    kept = tmp_path / "cache" / "hct_lightning"
    kept.mkdir(parents=True, mode=0o700)
    kept.chmod(0o777)
    with caplog.at_level("INFO"):
        assert made() is None
    assert f"others may write to {kept}" in caplog.text
    assert "a C++ compiler is needed" not in caplog.text, "there is one"


def test_a_user_without_a_home_has_none(made, monkeypatch, caplog):
    """As in a container that is run by a number: no HOME, and no entry in passwd."""

    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", home)
    with caplog.at_level("INFO"):
        assert made() is None
    assert f"{WITHOUT}: Could not determine home directory." in caplog.text
