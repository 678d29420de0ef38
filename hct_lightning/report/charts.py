"""Line charts as SVG inside a page. Their colours are the page's, so they are legible in both of its schemes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

WIDTH, HEIGHT = 360, 240  # px; as wide as a phone, so that the text is never made smaller
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 10, 40
COLOURS = 8  # --c0 to --c7 of page.css
MARKED = 25  # so many points are marked; more would hide the line
LARGEST = 1e100  # number that is drawn; differences of larger ones would be infinite
DRAWN = 300  # points of a line that are drawn; more can't be told apart


@dataclass(frozen=True)
class Line:
    """Points that belong together. `colour` counts from 0; `ringed` are the indices of points that stand out."""

    name: str
    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray
    colour: int = 0
    dashed: bool = False
    ringed: Sequence[int] = ()


@dataclass(frozen=True)
class Chart:
    """What a page shows: a title, the drawing, and for the legend (name, colour, dashed) of each line."""

    title: str
    svg: Markup
    legend: Sequence[tuple[str, int, bool]]


def line_chart(
    title: str,
    lines: Sequence[Line],
    *,
    x: str,
    y: str = "",
    from_zero: bool = False,
    unit_square: bool = False,
    diagonal: bool = False,
    marked: bool = True,
) -> Chart | None:
    """Draws lines; None where there is nothing to draw.

    Args:
        title: above the chart.
        lines: points that are not finite, or beyond `LARGEST`, are left out.
        x: what the horizontal axis is.
        y: what the vertical axis is, unless the title says it.
        from_zero: the vertical axis begins at 0.
        unit_square: both axes are 0 to 1.
        diagonal: draws where both are equal.
        marked: few points are marked, and say their values.
    """
    points = [(line, _finite(line)) for line in lines]
    points = [(line, found) for line, found in points if len(found)]
    if not points:
        return None
    every = np.concatenate([found for _, found in points])
    (x_low, y_low), (x_high, y_high) = every.min(axis=0), every.max(axis=0)
    if unit_square:
        x_low, y_low, x_high, y_high = 0, 0, 1, 1
    whole = np.all(every[:, 0] % 1 == 0)  # epochs and steps, between which there is nothing
    x_ticks = ticks(x_low, x_high, least=1 if whole else 0)
    y_ticks = ticks(0 if from_zero else y_low, y_high)
    low = np.array([x_low, y_ticks[0]])
    high = np.array([x_high, y_ticks[-1]])
    high = np.where(high > low, high, low + 1)

    def place(values: np.ndarray) -> np.ndarray:
        """n 2 values -> n 2 px."""
        share = (values - low) / (high - low)
        inside = np.array([WIDTH - LEFT - RIGHT, TOP + BOTTOM - HEIGHT])
        return np.array([LEFT, HEIGHT - BOTTOM]) + share * inside

    parts = [_grid(place, [t for t in x_ticks if low[0] <= t <= high[0]], y_ticks, low, x, y)]
    if diagonal:
        parts.append(_path(place(np.array([[0, 0], [1, 1]])), "diagonal"))
    for line, found in points:
        parts.append(_line(line, found, place(found), marked and len(found) <= MARKED))
    label = escape(f"{title}: {', '.join(line.name for line, _ in points)}")
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
    return Chart(title, Markup(svg), [(line.name, line.colour, line.dashed) for line, _ in points])


def ticks(low: float, high: float, least: float = 0) -> list[float]:
    """Round numbers, about five and at least `least` apart, from `low` or below to `high` or above."""
    if not high > low:  # one value: from zero to it
        low, high = (min(0, low), max(0, high)) if low else (0, 1)
    rough = max((high - low) / 4, least)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _finite(line: Line) -> np.ndarray:
    """n 2 points, thinned where they are many."""
    found = np.array([line.x, line.y], dtype=float).T
    if len(found) > DRAWN:
        found = found[np.linspace(0, len(found) - 1, DRAWN).round().astype(int)]
    return found[(np.abs(found) < LARGEST).all(axis=1)]


def _grid(place, x_ticks: Sequence[float], y_ticks: Sequence[float], low: np.ndarray, x: str, y: str) -> str:
    """Lines and numbers of both axes, and what they are."""
    parts = []
    for value in y_ticks:
        _, at = place(np.array([low[0], value]))
        parts.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{_number(value)}</text>')
    for value in x_ticks:
        at, _ = place(np.array([value, low[1]]))
        parts.append(f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{_number(value)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="axis" x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x)}</text>')
    if y:
        turned = f'transform="translate(8 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)"'
        parts.append(f'<text class="axis" {turned} text-anchor="middle">{escape(y)}</text>')
    return "".join(parts)


def _line(line: Line, values: np.ndarray, at: np.ndarray, marked: bool) -> str:
    colour = f"c{line.colour % COLOURS}"
    parts = [_path(at, f"line {colour}{' dashed' if line.dashed else ''}")] if len(at) > 1 else []
    if marked or len(at) == 1:
        for i, ((px, py), (vx, vy)) in enumerate(zip(at, values, strict=True)):
            said = escape(f"{line.name}: {vx:.6g}, {vy:.4g}")
            ring = " ring" if i in line.ringed else ""
            parts.append(
                f'<circle class="{colour}{ring}" cx="{px:.1f}" cy="{py:.1f}" r="{5 if ring else 2.5}">'
                f"<title>{said}</title></circle>"
            )
    return "".join(parts)


def _path(at: np.ndarray, style: str) -> str:
    return f'<path class="{style}" d="M{" ".join(f"{px:.1f} {py:.1f}" for px, py in at)}"/>'


def _number(value: float) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 10000 else f"{value:g}"
