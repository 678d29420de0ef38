"""Maps: what is drawn, and how two are compared."""

import pytest
import torch

from hct_lightning.explain.maps import Map, rank_correlation


def test_shares_go_from_the_darkest_to_the_brightest_and_what_speaks_against_is_dark():
    found = Map(torch.tensor([[-5.0, 0.0], [1.0, 4.0]]), "of something")
    assert found.range == (0, 4)
    assert found.shares().tolist() == [[0, 0], [0.25, 1]]
    assert Map(torch.full((2, 2), 3.0), "").shares().tolist() == [[0, 0], [0, 0]]


def test_rank_correlation_is_of_the_order_alone():
    a = Map(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "")
    assert rank_correlation(a, Map(a.values**3, "")) == pytest.approx(1)
    assert rank_correlation(a, Map(-a.values, "")) == pytest.approx(-1)
    # 1 - 6 * sum d^2 / (n (n^2 - 1)) with d = 1, 1, 1, 1
    assert rank_correlation(a, Map(torch.tensor([[2.0, 1.0], [4.0, 3.0]]), "")) == pytest.approx(0.6)
    assert rank_correlation(a, Map(torch.ones(2, 2), "")) is None
