"""Every image looked at once: sizes, channels, what repeats and what can't be read."""

import shutil

import numpy as np
import pytest
from PIL import Image

from hct_lightning.data.catalogue import Catalogue, Split
from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.data.reading.readers import FileReader
from hct_lightning.data.survey import survey

READER = FileReader(Decoding(channels=3, size=(8, 8), geometry="cover", max_pixels=10**6))


def look(train: list, valid: list):
    splits = [Split([str(path) for path in paths], [0] * len(paths)) for paths in (train, valid)]
    found = Catalogue("pictures", ("a", "b"), *splits)
    return survey(found, READER, max_pixels=10**6, workers=2, progress=lambda items, _: items)


def test_what_there_is_and_what_is_wrong_with_it(tmp_path):
    for name, value, size, mode in (("a", 51, (8, 8), "RGB"), ("b", 102, (16, 12), "RGB"), ("c", 204, (9, 8), "L")):
        Image.fromarray(np.full((*size, 3), value, np.uint8)).convert(mode).save(tmp_path / f"{name}.png")
    a, b, c, again, broken = (tmp_path / f"{name}.png" for name in ("a", "b", "c", "again", "broken"))
    shutil.copy(a, again)
    broken.write_text("no image")
    found = look([a, b, again, broken], [c])
    assert found.sizes == [(8, 8), (8, 8), (9, 8), (16, 12)]
    assert found.channels == {3: 3, 1: 1}
    assert list(found.unreadable) == [str(broken)]
    assert (found.duplicates, found.repeated) == ([], 1)  # of one split, and so no leak
    assert found.mean == pytest.approx([(51 + 102 + 51) / 3 / 255] * 3)  # of the training images alone
    assert look([a, b], [again]).duplicates == [[str(a), str(again)]]
    with pytest.raises(ValueError, match=r"pictures: none of the 1 images can be read: .*broken\.png"):
        look([broken], [])
