"""The reduced picture and the places in full of an image that is read by region."""

import pytest
import torch

from hct_lightning.explain import places
from hct_lightning.explain.maps import Map
from hct_lightning.explain.places import hottest, reduced
from hct_lightning.models.streaming import InMemory


@pytest.mark.parametrize("band", [1, 2**26])  # bytes that are read at a time
def test_a_reduced_image_is_made_of_means(monkeypatch, band):
    monkeypatch.setattr(places, "LONGEST", 50)
    monkeypatch.setattr(places, "BAND_BYTES", band)
    image = torch.randint(0, 256, (3, 130, 197), dtype=torch.uint8)
    found = reduced(InMemory(image))
    assert found.shape == (3, 33, 50)  # a quarter, the last squares cut
    assert found[1, 5, 7].item() == pytest.approx(image[1, 20:24, 28:32].float().mean().item(), abs=1)
    assert found[2, 32, 49].item() == pytest.approx(image[2, 128:, 196:].float().mean().item(), abs=1)


def test_the_hottest_places_come_first_and_do_not_overlap(monkeypatch):
    monkeypatch.setattr(places, "SIDE", 40)
    values = torch.full((30, 20), -1.0)
    values[10, 10], values[11, 11], values[29, 0], values[0, 19] = 5, 4, 3, 2
    image = torch.randint(0, 256, (1, 301, 200), dtype=torch.uint8)  # 10 px a cell, about
    found = hottest(Map(values, ""), (301, 200), count=9)
    assert [one.found.values.max() for one in found] == [5, 3, 2]  # 4 is inside of the first
    assert [(one.rows, one.columns) for one in found] == [
        (slice(80, 120), slice(80, 120)),
        (slice(261, 301), slice(0, 40)),
        (slice(0, 40), slice(160, 200)),
    ]
    assert all(one.found.range == (0, 5) for one in found)
    assert torch.equal(found[1].read(InMemory(image)), image[:, 261:, :40])
    assert len(hottest(Map(values, ""), (301, 200), count=1)) == 1
