"""Draws one flower on a cluttered background with numpy alone.

A species is five traits (colour, petal shape, petal count, pattern, centre). Everything else about a picture
(place, size, turn, tilt, light, tint, background, what grows in front, noise) is drawn anew for each picture from the
generator that the caller gives, so that a species is known by its traits only.

Coordinates run from -1 to 1 over the picture, x to the right and y downwards; in the flower's own frame its centre is
the origin and a petal of average length ends at radius 1. Fields are float64 arrays [H, W]: in single precision the
pixels would depend on the vector instructions of the processor.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

SIDE = 64
_AXIS = (np.arange(SIDE) + 0.5) * (2 / SIDE) - 1
_X, _Y = np.meshgrid(_AXIS, _AXIS)


class Hsv(NamedTuple):
    """A colour as hue (0 to 1 around the circle), saturation and value."""

    hue: float
    saturation: float
    value: float


class Outline(NamedTuple):
    """The edge of a petal: its radius is gap + (1 - gap) * (1 - (t / width)**flat)**blunt.

    t is 0 on the petal's axis and 1 between two petals. `notch` is cut out of the tip, `ruffle` waves the edge, `twist`
    bends the whole petal sideways (radians at the tip, times the petal count).
    """

    gap: float
    width: float
    flat: float
    blunt: float
    notch: float = 0.0
    ruffle: float = 0.0
    twist: float = 0.0


class Centre(NamedTuple):
    """What sits in the middle: a disc, and a rim of dots or rays around it; lengths in petal lengths."""

    radius: float
    colour: Hsv
    rim: float = 0.0
    rim_colour: Hsv = Hsv(0, 0, 0)
    rays: int = 0


# Petals and the second colour of their pattern.
COLOURS = {
    "white": (Hsv(0.12, 0.05, 0.97), Hsv(0.86, 0.70, 0.75)),
    "yellow": (Hsv(0.145, 0.82, 0.96), Hsv(0.03, 0.90, 0.60)),
    "orange": (Hsv(0.065, 0.88, 0.95), Hsv(0.99, 0.90, 0.40)),
    "red": (Hsv(0.985, 0.88, 0.78), Hsv(0.13, 0.60, 0.95)),
    "pink": (Hsv(0.92, 0.40, 0.95), Hsv(0.90, 0.90, 0.55)),
    "violet": (Hsv(0.76, 0.60, 0.70), Hsv(0.80, 0.10, 0.95)),
    "blue": (Hsv(0.62, 0.65, 0.85), Hsv(0.60, 0.05, 0.98)),
}
SHAPES = {
    "round": Outline(gap=0.45, width=1.0, flat=3.0, blunt=0.5),
    "pointed": Outline(gap=0.35, width=1.0, flat=1.0, blunt=0.9),
    "heart": Outline(gap=0.35, width=1.0, flat=4.0, blunt=0.6, notch=0.20),
    "narrow": Outline(gap=0.15, width=0.62, flat=2.5, blunt=0.5),
    "trumpet": Outline(gap=0.82, width=1.0, flat=2.0, blunt=1.0),
    "ruffled": Outline(gap=0.55, width=1.0, flat=3.0, blunt=0.6, ruffle=0.09),
    "pinwheel": Outline(gap=0.30, width=0.9, flat=2.0, blunt=0.6, twist=0.9),
}
COUNTS = (3, 4, 5, 6, 8, 11, 15)
# How much of the second colour there is, from t (0 on the petal's axis, 1 between petals), r (0 in the centre of the
# flower, 1 at the petal's edge) and the number of the petal.
PATTERNS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "plain": lambda t, r, petal: np.zeros_like(r),
    "throat": lambda t, r, petal: np.clip(1.9 - 3.2 * r, 0, 1),
    "edged": lambda t, r, petal: np.clip(8 * r - 6.0, 0, 1),
    "striped": lambda t, r, petal: np.clip(2.0 - 6.0 * t, 0, 1),
    "spotted": lambda t, r, petal: np.clip(6 * np.cos(9.5 * t) * np.cos(21 * r) - 1, 0, 1) * (r < 0.9),
    "banded": lambda t, r, petal: np.clip(2.5 - 14 * np.abs(r - 0.62), 0, 1),
    "alternate": lambda t, r, petal: petal % 2.0,
}
CENTRES = {
    "disc": Centre(0.36, Hsv(0.07, 0.75, 0.35)),
    "button": Centre(0.20, Hsv(0.14, 0.90, 0.95)),
    "eye": Centre(0.22, Hsv(0.75, 0.40, 0.12)),
    "stamens": Centre(0.12, Hsv(0.25, 0.70, 0.55), rim=0.34, rim_colour=Hsv(0.13, 0.85, 0.90), rays=9),
    "star": Centre(0.13, Hsv(0.28, 0.80, 0.45), rim=0.42, rim_colour=Hsv(0.27, 0.65, 0.70), rays=5),
    "halo": Centre(0.16, Hsv(0.12, 0.95, 0.80), rim=0.32, rim_colour=Hsv(0.15, 0.08, 0.98)),
    "tube": Centre(0.24, Hsv(0.30, 0.55, 0.30), rim=0.32, rim_colour=Hsv(0.22, 0.50, 0.75)),
}


@dataclass(frozen=True)
class Species:
    """Five traits, each a key of its table."""

    colour: str
    shape: str
    count: int
    pattern: str
    centre: str

    @property
    def name(self) -> str:
        """The class name, such as "violet_heart_5_edged_button"."""
        return f"{self.colour}_{self.shape}_{self.count}_{self.pattern}_{self.centre}"


def draw(species: Species, rng: Generator) -> np.ndarray:
    """Draws a picture of the species, uint8 [64, 64, 3]; the same generator state gives the same pixels."""
    canvas = _background(rng)
    for _ in range(rng.integers(2, 6)):
        _paint_leaf(canvas, rng)
    for _ in range(rng.integers(0, 4)):
        _paint_bokeh(canvas, rng)
    _paint_flower(canvas, species, rng)
    if rng.random() < 0.5:
        _paint_stalk(canvas, rng)
    return _expose(canvas, rng)


def _paint_flower(canvas: np.ndarray, species: Species, rng: Generator) -> None:
    x, y = _pose(rng)
    outline = SHAPES[species.shape]
    r = np.hypot(x, y)
    side = 1 if rng.random() < 0.5 else -1
    turns = (np.arctan2(y, x) / (2 * np.pi) + side * outline.twist * r / (2 * np.pi)) * species.count
    petal = np.floor(turns) % species.count
    across = 2 * (turns - np.floor(turns)) - 1
    t = np.abs(across)
    length = rng.uniform(0.86, 1.08, species.count)[petal.astype(int)]
    edge = _reach(outline, t) * length
    inside = _coverage(edge - r)

    shadow = np.roll(inside, rng.integers(-4, 5, 2), axis=(0, 1))
    canvas *= 1 - rng.uniform(0.2, 0.6) * shadow[..., None]

    base, accent = COLOURS[species.colour]
    mix = PATTERNS[species.pattern](t, r / np.maximum(edge, 1e-6), petal)[..., None]
    colour = _rgb(_vary(base, rng)) * (1 - mix) + _rgb(_vary(accent, rng)) * mix
    # Neighbours overlap: dark in the gap, and one half of each petal turned from the light.
    shade = (1 - 0.40 * t**4) * (1 + rng.uniform(-0.18, 0.18) * across) * (0.72 + 0.30 * np.minimum(r, 1))
    _blend(canvas, inside, colour * shade[..., None])
    _paint_centre(canvas, CENTRES[species.centre], x, y, rng)


def _paint_centre(canvas: np.ndarray, centre: Centre, x: np.ndarray, y: np.ndarray, rng: Generator) -> None:
    r = np.hypot(x, y)
    size = rng.uniform(0.85, 1.15)
    if centre.rim:
        rim = centre.rim * size * np.ones_like(r)
        if centre.rays:
            wave = np.cos(centre.rays * np.arctan2(y, x) + rng.uniform(0, 2 * np.pi))
            rim *= 0.72 + 0.28 * wave
        _blend(canvas, _coverage(rim - r), _rgb(_vary(centre.rim_colour, rng)))
    dome = 1.1 - 0.5 * np.minimum(r / (centre.radius * size), 1) ** 2
    grain = 1 + 0.12 * rng.standard_normal(r.shape)
    _blend(canvas, _coverage(centre.radius * size - r), _rgb(_vary(centre.colour, rng)) * (dome * grain)[..., None])


def _reach(outline: Outline, t: np.ndarray) -> np.ndarray:
    """The radius at which a petal ends, [H, W], 1 at its tip."""
    body = np.maximum(1 - (t / outline.width) ** outline.flat, 0) ** outline.blunt
    radius = outline.gap + (1 - outline.gap) * body
    radius -= outline.notch * np.exp(-((t / 0.24) ** 2))
    return radius * (1 + outline.ruffle * np.cos(5.5 * np.pi * t))


def _pose(rng: Generator) -> tuple[np.ndarray, np.ndarray]:
    """The picture's coordinates seen from a flower somewhere in it: turned, tilted away, near or far."""
    radius = rng.uniform(0.50, 0.88)
    slack = max(0.0, 1.05 - radius)
    x, y = _X - rng.uniform(-slack, slack) * 0.8, _Y - rng.uniform(-slack, slack) * 0.8
    axis = rng.uniform(0, np.pi)
    along, over = np.cos(axis) * x + np.sin(axis) * y, np.cos(axis) * y - np.sin(axis) * x
    over = over / rng.uniform(0.65, 1.0)
    turn = rng.uniform(0, 2 * np.pi)
    return (np.cos(turn) * along - np.sin(turn) * over) / radius, (np.sin(turn) * along + np.cos(turn) * over) / radius


def _background(rng: Generator) -> np.ndarray:
    """Soft blotches of two related tones, float64 [H, W, 3]."""
    hue = rng.choice([0.09, 0.22, 0.30, 0.36, 0.55, rng.random()])
    tones = [_rgb(Hsv(hue + rng.normal(0, 0.04), rng.uniform(0.1, 0.7), rng.uniform(0.1, 0.8))) for _ in range(2)]
    mix = np.clip(0.5 + 1.2 * (_blotches(4, rng) - 0.5) + 0.8 * (_blotches(13, rng) - 0.5), 0, 1)[..., None]
    return tones[0] * mix + tones[1] * (1 - mix)


def _blotches(cells: int, rng: Generator) -> np.ndarray:
    """A grid of [cells, cells] uniform numbers, interpolated to [H, W]."""
    position = (np.arange(SIDE) + 0.5) * (cells - 1) / SIDE
    weights = np.maximum(1 - np.abs(position[:, None] - np.arange(cells)), 0)
    return weights @ rng.random((cells, cells)) @ weights.T


def _paint_leaf(canvas: np.ndarray, rng: Generator) -> None:
    angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 0.9)
    x, y = _X - rng.uniform(-1, 1), _Y - rng.uniform(-1, 1)
    along = (np.cos(angle) * x + np.sin(angle) * y) / length
    across = (np.cos(angle) * y - np.sin(angle) * x) / length
    inside = _coverage(rng.uniform(0.2, 0.45) * (1 - along**2) - np.abs(across))
    vein = 1 - 0.3 * np.exp(-((across / 0.05) ** 2))
    colour = _rgb(Hsv(rng.normal(0.29, 0.05), rng.uniform(0.3, 0.8), rng.uniform(0.2, 0.7)))
    _blend(canvas, inside, colour * (vein * (1 + 0.3 * np.sign(across) * rng.random()))[..., None])


def _paint_bokeh(canvas: np.ndarray, rng: Generator) -> None:
    """A flower out of focus: a soft disc in the colour of some other species."""
    colours = list(COLOURS.values())[rng.integers(len(COLOURS))]
    r = np.hypot(_X - rng.uniform(-1.1, 1.1), _Y - rng.uniform(-1.1, 1.1)) / rng.uniform(0.12, 0.4)
    soft = np.clip((1 - r) * rng.uniform(1.5, 6), 0, 1) * rng.uniform(0.6, 1)
    _blend(canvas, soft, _rgb(_vary(colours[rng.integers(2)], rng)))


def _paint_stalk(canvas: np.ndarray, rng: Generator) -> None:
    """A blade of grass across the picture, in front of the flower."""
    angle = rng.uniform(0, np.pi)
    along = np.cos(angle) * _X + np.sin(angle) * _Y
    across = np.cos(angle) * _Y - np.sin(angle) * _X - rng.uniform(-0.6, 0.6) + rng.uniform(-0.2, 0.2) * along**2
    inside = _coverage(rng.uniform(0.03, 0.09) - np.abs(across))
    _blend(canvas, inside, _rgb(Hsv(rng.normal(0.27, 0.05), rng.uniform(0.3, 0.8), rng.uniform(0.2, 0.7))))


def _expose(canvas: np.ndarray, rng: Generator) -> np.ndarray:
    """Light from one side, a tint, softness and noise of the camera; uint8 [H, W, 3]."""
    angle = rng.uniform(0, 2 * np.pi)
    light = 1 + rng.uniform(0, 0.35) * (np.cos(angle) * _X + np.sin(angle) * _Y)
    canvas = canvas * light[..., None] * rng.uniform(0.7, 1.2) * rng.uniform(0.9, 1.1, 3)
    blur = rng.uniform(0, 0.22)
    for axis in (0, 1):
        canvas = (1 - 2 * blur) * canvas + blur * (np.roll(canvas, 1, axis) + np.roll(canvas, -1, axis))
    canvas += rng.uniform(0.01, 0.045) * rng.standard_normal(canvas.shape)
    return np.rint(np.clip(canvas, 0, 1) * 255).astype(np.uint8)


def _coverage(field: np.ndarray) -> np.ndarray:
    """How much of each pixel lies where the field is positive, [H, W] from 0 to 1: a soft edge one pixel wide."""
    down, right = np.gradient(field)
    return np.clip(0.5 + field / np.maximum(np.hypot(down, right), 1e-9), 0, 1)


def _blend(canvas: np.ndarray, alpha: np.ndarray, colour: np.ndarray) -> None:
    canvas += alpha[..., None] * (colour - canvas)


def _vary(colour: Hsv, rng: Generator) -> Hsv:
    """The colour of one plant among its kind."""
    return Hsv(
        colour.hue + rng.normal(0, 0.02),
        colour.saturation * rng.uniform(0.75, 1.1),
        colour.value * rng.uniform(0.8, 1.08),
    )


def _rgb(colour: Hsv) -> np.ndarray:
    """Red, green and blue from 0 to 1, float64 [3]."""
    saturation, value = np.clip(colour[1:], 0, 1)
    sector = (np.array([5.0, 3.0, 1.0]) + 6 * colour.hue) % 6
    return value - value * saturation * np.clip(np.minimum(sector, 4 - sector), 0, 1)
