"""What every source is asked for, and gives."""

from functools import partial

import pytest

from hct_lightning.data.catalogue import Catalogue, Split, resolve_root
from hct_lightning.data.sources.csv import table
from hct_lightning.data.sources.folder import folder
from hct_lightning.data.sources.liu4k import liu4k

SPLIT = {"valid_fraction": 0.2, "split_seed": 0}


@pytest.mark.parametrize("source", [partial(folder, **SPLIT), liu4k, partial(table, **SPLIT)])
def test_a_root_that_is_not_there(source, tmp_path):
    for nothing in (None, ""):
        with pytest.raises(ValueError, match=r"data\.root is not set; give data\.root=<path"):
            source(nothing)
    with pytest.raises(FileNotFoundError, match=r"data\.root=.*/absent: there is no /"):
        source(str(tmp_path / "absent"))


def test_images_that_lie_elsewhere_are_refused():
    with pytest.raises(ValueError, match="only a store is read"):
        resolve_root("s3://bucket/images")


def test_what_is_known_of_images_stays_with_them():
    split = Split([f"{i}.jpg" for i in range(9)], [0, 0, 0, 1, 1, 1, 2, 2, 2], {"group": [f"g{i}" for i in range(9)]})
    found = Catalogue("table", ("a", "b", "c"), split, split, test=split).at_most(3)
    assert list(found.splits) == ["train", "valid", "test"]
    for few in found.splits.values():
        assert few.labels == [0, 1, 2]
        for i, path in enumerate(few.paths):
            assert few.tags_of(i) == {"group": f"g{path.removesuffix('.jpg')}"}
