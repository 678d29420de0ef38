"""Convolutions tile by tile."""

import threading

import pytest
import torch

from hct_lightning.models import HCT
from hct_lightning.models.tiles import Reach, Tiled, in_order, reach_of


def test_reach_is_that_of_the_gradient():
    """The pixels that an output depends on, by definition."""
    made = HCT().double().eval()
    local = torch.nn.Sequential(made.stem, *made.stages[:2])
    reach = reach_of(made.stem, *made.stages[:2])
    x = torch.zeros(1, 3, 400, 128, dtype=torch.float64, requires_grad=True)
    local(x + torch.rand_like(x))[0, :, 12].abs().sum().backward()
    rows = x.grad.abs().sum(dim=(0, 1, 3)).nonzero().flatten().tolist()
    needed, inner = reach.needed(slice(12, 13), 400)
    assert needed.start <= rows[0] < needed.start + reach.stride
    assert rows[-1] == needed.stop - 1
    assert needed.start // 16 + inner.start == 12
    assert reach.length(400) == local(x).shape[2]


def test_a_window_never_leaves_its_input():
    reach = Reach(((7, 2, 3), (3, 2, 0)))
    assert reach.needed(slice(0, 1), 50) == (slice(0, 8), slice(0, 1))
    assert reach.needed(slice(0, reach.length(50)), 50) == (slice(0, 50), slice(0, 12))


def test_gradients_are_those_of_the_whole():
    torch.manual_seed(0)
    x = torch.randn(1, 3, 150, 130)
    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 7, 2, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3, 1, 1))
    weights = torch.randn(1, 4, 75, 65)
    (layers(x) * weights).sum().backward()
    expected = [parameter.grad for parameter in layers.parameters()]
    tiled = Tiled(layers, reach_of(layers), lambda rows, columns: x[:, :, rows, columns], (150, 130), (20, 30))
    given = torch.autograd.grad((tiled.trained(list(layers.parameters())) * weights).sum(), list(layers.parameters()))
    for a, b in zip(given, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)


def test_places_are_nearly_of_one_size_and_cover_the_whole():
    tiled = Tiled(lambda x: x, Reach(((1, 1, 0),)), lambda rows, columns: torch.zeros(0), (41, 7), (10, 100))
    rows = [place[0] for place in tiled.places()]
    assert [row.start for row in rows] == [0, *(row.stop for row in rows[:-1])]
    assert rows[-1].stop == 41
    assert {row.stop - row.start for row in rows} == {8, 9}


def test_threads_give_results_in_order_and_share_those_of_torch():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    together = threading.Barrier(2, timeout=20)
    try:
        with torch.no_grad():

            def work(place):
                together.wait()
                return place, torch.get_num_threads(), torch.is_grad_enabled()

            assert list(in_order(work, range(6), 2)) == [(i, 2, False) for i in range(6)]
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


def test_what_a_thread_raises_ends_it():
    def work(place):
        if place == 2:
            raise ValueError("no")
        return place

    got = []
    with pytest.raises(ValueError, match="no"):
        got.extend(in_order(work, range(9), 2))
