"""LIU4K is two trees with a folder a class."""

import pytest

from hct_lightning.data.sources.liu4k import liu4k


def test_liu4k(tmp_path, plant):
    for name in ("train", "valid"):
        plant(tmp_path / name, Animal=2, Street=1)
    found = liu4k(str(tmp_path))
    assert found.source == f"LIU4K {tmp_path}"
    assert found.classes == ("Animal", "Street")
    assert found.train.labels == found.valid.labels == [0, 0, 1]
    (tmp_path / "valid").rename(tmp_path / "val")
    with pytest.raises(ValueError, match=r"there is no .*/valid; LIU4K is expected as train/<class>/"):
        liu4k(str(tmp_path))
