import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from hct_lightning.report.charts import DRAWN, Line, line_chart, ticks


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.31, 0.94), (-3, 12), (0, 0.00042), (1e5, 3e5), (5, 5), (0, 0)])
def test_ticks_are_few_and_round_and_enclose(low, high):
    found = ticks(low, high)
    assert found[0] <= low
    assert found[-1] >= high
    assert 2 <= len(found) <= 8
    steps = {round((b - a) / (found[1] - found[0]), 6) for a, b in pairwise(found)}
    assert steps == {1}


def test_one_value_is_shown_from_zero():
    assert ticks(1, 1) == [0, 0.25, 0.5, 0.75, 1]


def test_the_drawing_is_svg_whose_points_lie_inside():
    chart = line_chart("Loss", [Line("<run> & co", [1, 2, 3], [0.5, math.nan, 2.5])], x="epoch")
    svg = ElementTree.fromstring(chart.svg)
    assert "<run> & co" in svg.attrib["aria-label"]
    points = [(float(c.attrib["cx"]), float(c.attrib["cy"])) for c in svg.iter("circle")]
    assert len(points) == 2  # what is not finite is left out
    assert all(46 <= x <= 348 and 10 <= y <= 200 for x, y in points)
    assert points[0][1] > points[1][1]  # up is more
    assert chart.legend == [("<run> & co", 0, False)]


def test_many_points_are_thinned():
    chart = line_chart("Loss", [Line("a", range(10_000), range(10_000))], x="step")
    (path,) = re.findall(r'class="line c0" d="M([^"]*)"', chart.svg)
    assert len(path.split()) == 2 * DRAWN


def test_nothing_to_draw_is_no_chart():
    assert line_chart("Loss", [Line("a", [], []), Line("b", [1], [math.inf])], x="epoch") is None


def test_one_point_and_one_value_are_drawn():
    assert "<circle" in line_chart("Loss", [Line("a", [1], [0.5])], x="epoch").svg
    assert "<path" in line_chart("Loss", [Line("a", [1, 2], [0.0, 0.0])], x="epoch").svg
