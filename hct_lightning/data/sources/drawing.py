"""Scenes: pictures whose class hides in fine detail, to try high resolution without a download.

A scene is a soft ground with overlapping blobs, most of them printed with a pale motif: dots, a
grid, rings or stripes. Only the motif tells the class; colours, composition, the motif's period,
angle, phase and amount of ink are drawn alike for all. The composition is in fractions of the
picture, the motif in pixels: shrink a scene and its class fades, as small findings do in very large
images. Flips and quarter turns keep the class.
"""

import numpy as np
from PIL import Image

CLASSES = ("dots", "grid", "rings", "stripes")
VERSION = 1  # of the drawing: bump it whenever a (seed, index, size) comes out differently

PERIOD = (5.0, 11.0)  # of the motif, pixels; much above 11 it would survive a reduction by 8
COVERAGE = (0.28, 0.36)  # share of a printed blob under ink
EDGE = 1.2  # softness of the ink, pixels; much sharper, and fine motifs would alias
INK = (0.65, 0.95)  # opacity of the ink
BLOBS = (7, 10)  # per scene, the last excluded
PRINTED = 0.8  # share of the blobs that carry the motif
OUTLINE = 64  # points per side of the coarse map a blob's outline is drawn on


def label(index: int) -> int:
    """The class of scene `index`, a position in `CLASSES`."""
    return index % len(CLASSES)


def draw(seed: int, index: int, size: int) -> np.ndarray:
    """Scene `index` of series `seed`: size size 3 uint8, the same on every call."""
    rng = np.random.default_rng((seed, index))
    palette = rng.uniform(size=3)
    period = np.exp(rng.uniform(*np.log(PERIOD)))
    scene = gradient(rng, palette, 4, size, size)
    for _ in range(rng.integers(*BLOBS)):
        radius = rng.uniform(0.14, 0.28) * size
        x, y = rng.uniform(0, size, 2)
        left, top = (max(0, int(centre - 1.3 * radius)) for centre in (x, y))
        right, bottom = (min(size, int(centre + 1.3 * radius) + 1) for centre in (x, y))
        mask = blob(rng, (x, y), radius, (left, top, right, bottom))
        fill = gradient(rng, palette, 2, right - left, bottom - top)
        # All that is random is drawn unconditionally: scenes differ by class in the motif alone.
        pale = tuple(rng.integers(200, 256, 3).tolist())
        angle, coverage, opacity = rng.uniform(0, np.pi), rng.uniform(*COVERAGE), rng.uniform(*INK)
        phases = rng.uniform(0, 2 * np.pi, 2)
        if rng.uniform() < PRINTED:
            ink = motif(label(index), fill.size, period, angle, phases, coverage, opacity)
            fill.paste(Image.new("RGB", fill.size, pale), (0, 0), ink)
        scene.paste(fill, (left, top), mask)
    return np.array(scene)


def gradient(rng: np.random.Generator, palette: np.ndarray, points: int, width: int, height: int) -> Image.Image:
    """A smooth field of related colours through points x points random ones."""
    tone = rng.uniform() + rng.uniform(-0.25, 0.25, (points, points, 1))
    shade = rng.uniform(0.7, 1.0) * (0.38 + 0.24 * np.cos(2 * np.pi * (tone + palette)))
    small = Image.fromarray((255 * shade.clip(0, 1)).astype(np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def blob(
    rng: np.random.Generator,
    centre: tuple[float, float],
    radius: float,
    box: tuple[int, int, int, int],
) -> Image.Image:
    """Mask of a wobbly disc within `box` (left, top, right, bottom); all in pixels."""
    left, top, right, bottom = box
    x = np.linspace(left, right, OUTLINE) - centre[0]
    y = np.linspace(top, bottom, OUTLINE)[:, None] - centre[1]
    angle = np.arctan2(y, x)
    wobble = sum(rng.uniform(0, 0.25 / k) * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 4))
    inside = (radius * (1 + wobble) - np.hypot(x, y)).astype(np.float32)
    size = (right - left, bottom - top)
    inside = np.asarray(Image.fromarray(inside).resize(size, Image.Resampling.BILINEAR))
    return Image.fromarray((255 * (inside + 0.5).clip(0, 1)).astype(np.uint8))


def motif(
    kind: int,
    size: tuple[int, int],
    period: float,
    angle: float,
    phases: np.ndarray,
    coverage: float,
    opacity: float,
) -> Image.Image:
    """Mask of the ink. `size` (width, height) and `period` in pixels, `angle` and `phases` radians.

    `coverage` and `opacity` are shares of 1.
    """
    # The ink begins and ends at the same two quantiles of the relief for every class. So all classes have equally
    # much ink of equal contrast; otherwise the statistics of the colours would tell them apart.
    cell = np.cos(np.linspace(0, 2 * np.pi, 64, endpoint=False, dtype=np.float32))
    edge = min(coverage, EDGE / period)
    ranks = (1 - coverage - edge, 1 - coverage + edge)
    low, high = np.quantile(relief(kind, cell, cell[:, None]), ranks)

    step = 2 * np.pi / period
    dx, dy = step * np.cos(angle), step * np.sin(angle)
    ink = relief(kind, wave(size, dx, dy, phases[0]), wave(size, -dy, dx, phases[1]))
    ink -= low
    ink *= 255 * opacity / (high - low)
    return Image.fromarray(ink.clip(0, 255 * opacity).astype(np.uint8))


def relief(kind: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Height of the motif, inked where it is high; u and v are cosines across and along it."""
    match CLASSES[kind]:
        case "dots":
            return u + v
        case "grid":
            return np.maximum(u, v)
        case "rings":
            return -np.abs(u + v - 0.5)
        case _:  # stripes; v only broadcasts
            return u + 0 * v


def wave(size: tuple[int, int], dx: float, dy: float, phase: float) -> np.ndarray:
    """cos(dx x + dy y + phase) at every pixel, as a product of two thin matrices: much faster."""
    x = dx * np.arange(size[0])
    y = dy * np.arange(size[1]) + phase
    columns = np.stack([np.cos(x), -np.sin(x)]).astype(np.float32)
    rows = np.stack([np.cos(y), np.sin(y)], axis=1).astype(np.float32)
    return rows @ columns
