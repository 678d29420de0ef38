"""The description of how a file becomes pixels."""

from dataclasses import replace

import pytest

from hct_lightning.data.reading.decoding import Decoding, padding_note


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 7}, "version 7"),
        ({"channels": 0}, r"data\.channels=0"),
        ({"geometry": "squash"}, "data.geometry=squash"),
        ({"window": [5, 1]}, r"data\.window"),
        ({"size": [0, 5]}, "resolution="),
        ({"reduce_to": -1}, r"data\.reduce_to=-1"),
        ({"max_pixels": "many"}, r"data\.max_pixels=many"),
        ({"channels": "three"}, r"data\.channels=three"),
    ],
)
def test_a_description_that_can_not_be_is_refused(change, message):
    saved = Decoding(channels=3, size=(8, 8), geometry="cover", max_pixels=64).as_json() | change
    with pytest.raises(ValueError, match=message):
        Decoding.from_json(saved)


def test_options_on_top_of_a_description():
    trained = Decoding(channels=3, size=(8, 8), geometry="paper", max_pixels=64, window=(0, 9), srgb=True, reduce_to=4)
    nothing = {"window": None, "reduce_to": None, "srgb": False, "channels": None, "geometry": None, "batch_size": 3}
    assert trained.with_options(nothing) == Decoding(channels=3, size=(8, 8), geometry="paper", max_pixels=64)
    other = trained.with_options({"resolution": [4, 6], "window": [1, 2], "breast": True})
    assert (other.size, other.window, other.breast, other.srgb) == ((4, 6), (1, 2), True, True)
    assert trained.with_options({}) == trained
    with pytest.raises(ValueError, match=r"data\.window"):
        trained.with_options({"window": [5, 1]})


def test_a_geometry_that_pads_most_of_an_image_is_noted():
    paper = Decoding(channels=3, size=(4000, 4000), geometry="paper", max_pixels=2**30)
    note = padding_note(paper, [(1024, 1024), (4000, 4000), (1000, 1000)])
    assert note is not None
    assert note.startswith(
        "data.geometry=paper pads more than half of 2 of the 3 images looked at with black, up to 94%"
    )
    assert "data.geometry=cover" in note
    assert padding_note(paper, [(4000, 4000), (3000, 3000)]) is None  # 44 %
    assert padding_note(replace(paper, geometry="cover"), [(10, 10)]) is None
    assert padding_note(replace(paper, size=None), [(10, 10)]) is None
