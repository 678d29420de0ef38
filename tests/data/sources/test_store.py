"""A store as a source: what was prepared, to be read as it lies there."""

from pathlib import Path

import pytest

from hct_lightning.data.sources.store import store

PREPARED = Path(__file__).parents[2] / "formats" / "2026-11" / "store"


def test_what_was_prepared_is_found_with_its_decoding():
    found = store(str(PREPARED), cache="unused")
    assert found.classes == ("dots", "grid", "rings", "stripes")
    assert found.train.labels == [0, 1, 2, 3, 0, 1, 2, 3]
    assert found.valid.labels == [0, 1, 2, 3]
    assert all(Path(path).is_relative_to(PREPARED) for path in found.train.paths + found.valid.paths)
    assert found.source.startswith(f"store {PREPARED} (jpeg) of ")
    assert found.prepared.decoding.srgb


def test_a_folder_without_a_store_is_named(tmp_path):
    with pytest.raises(ValueError, match=rf"{tmp_path} is not a prepared store"):
        store(str(tmp_path), cache="unused")
