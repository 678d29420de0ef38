"""`store.json` is read as it was written, or refused."""

import json
import os
from pathlib import Path

import pytest

from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.data.store.format import Recipe, item_file, read_manifest

OF_VERSION_1 = Path(__file__).parents[2] / "formats" / "2026-11" / "store"


def test_a_recipe_comes_back_from_json():
    decoding = Decoding(channels=2, size=(64, 96), geometry="paper", max_pixels=10**6, window=((0, 9), (-1, 1)))
    recipe = Recipe(decoding, "jpeg", 90)
    assert Recipe.from_json(json.loads(json.dumps(recipe.as_json()))) == recipe
    assert recipe.size == (64, 96)


def test_version_1_is_brought_to_the_form_of_this_one():
    assert json.loads((OF_VERSION_1 / "store.json").read_text())["version"] == 1
    manifest = read_manifest(OF_VERSION_1)
    decoding = Decoding(channels=3, size=(128, 128), geometry="cover", max_pixels=2**30, srgb=True)
    assert Recipe.from_json(manifest["recipe"]) == Recipe(decoding, "jpeg", 80)
    assert manifest["version"] == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"store\.json is damaged"),
        ("[]", "is damaged"),
        ('{"version": 1}', "is damaged"),
        ('{"version": []}', "version"),
        ('{"version": 3}', "3"),
    ],
)
def test_what_it_does_not_know_is_refused(tmp_path, text, message):
    assert read_manifest(tmp_path) is None
    (tmp_path / "store.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_manifest(tmp_path)


def test_items_are_named_for_their_sources_whatever_those_are_called():
    assert item_file("train", "a", "/x/photo.jpg", "raw") == "train/a/photo-b0a910b95c.npy"
    names = ["/x/" + "图" * 80 + ".jpg", os.fsdecode(b"/x/\xff\xfe.jpg"), "/x/new\nline.png", "/x/.png"]
    files = [item_file("train", "a/b", name, "png") for name in names]
    assert len(set(files)) == len(files)
    for file in files:
        assert file.startswith("train/a_b/")
        assert len(os.fsencode(Path(file).name)) < 200
        file.encode()  # for store.json, and for a store that lies elsewhere
