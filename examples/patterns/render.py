"""The renderer: 4 patterns x 2 scales x 6 colours x 4 grounds = 192 captions, with period, tilt,
phase and contrast left free.

python -m examples.shapes.render --world patterns --output_dir out/patterns --num_images 2000
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from examples.worlds import Attributes, World

SIZE = 64  # pixels
SUPERSAMPLE = 3

# The two sets share no colour: which of the two comes first in a caption is seen in the picture.
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (215, 30, 30),
    "orange": (245, 140, 20),
    "yellow": (250, 225, 50),
    "green": (40, 160, 60),
    "blue": (45, 85, 235),
    "purple": (145, 45, 185),
}
GROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (245, 245, 245),
    "black": (15, 15, 15),
    "gray": (128, 128, 128),
    "pink": (250, 165, 195),
}
PERIODS: dict[str, tuple[float, float]] = {"fine": (14.0, 17.0), "wide": (26.0, 34.0)}
"""Least and greatest distance of two repetitions, in pixels."""
MAX_TILT = math.pi / 6


def _square(phase: np.ndarray) -> np.ndarray:
    """1 in the first half of every period, 0 in the second."""
    return (phase - np.floor(phase) < 0.5).astype(np.float32)


def _stripes(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return _square(u)


def _checks(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    # larger cells than the stripes', so that both colours survive the VAE
    return np.abs(_square(u / 1.25) - _square(v / 1.25))


def _dots(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    across, down = u - np.floor(u) - 0.5, v - np.floor(v) - 0.5
    return (across * across + down * down < 0.36**2).astype(np.float32)


def _rings(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return _square(np.sqrt(u * u + v * v))


# u, v: place in periods from the scene's origin -> 1 where the first colour is
PATTERNS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "stripes": _stripes,
    "checks": _checks,
    "dots": _dots,
    "rings": _rings,
}


@dataclass(frozen=True)
class Texture:
    """One picture: four attributes that the caption names and five quantities that it does not.

    `period`, `x`, `y` (origin) are pixels, `tilt` radians, `contrast` the share of the two colours'
    difference that is kept.
    """

    scale: str
    color: str
    ground: str
    pattern: str
    period: float
    x: float
    y: float
    tilt: float
    contrast: float

    @property
    def caption(self) -> str:
        return caption((self.scale, self.color, self.ground, self.pattern))


def caption(attributes: Attributes) -> str:
    """The words for four attributes, for example "fine blue and white dots"."""
    scale, color, ground, pattern = attributes
    return f"{scale} {color} and {ground} {pattern}"


def sample_texture(attributes: Attributes, rng: np.random.Generator) -> Texture:
    """Draws the free quantities of a texture; the origin, of rings the centre, is near the
    middle.
    """
    scale, color, ground, pattern = attributes
    x, y = rng.uniform(SIZE / 4, 3 * SIZE / 4, size=2)
    return Texture(
        scale,
        color,
        ground,
        pattern,
        period=float(rng.uniform(*PERIODS[scale])),
        x=float(x),
        y=float(y),
        tilt=float(rng.uniform(-MAX_TILT, MAX_TILT)),
        contrast=float(rng.uniform(0.8, 1.0)),
    )


def render(texture: Texture) -> np.ndarray:
    """Draws a texture, anti-aliased. Returns [64, 64, 3] uint8."""
    k = SUPERSAMPLE
    places = ((np.arange(SIZE * k) + 0.5) / k).astype(np.float32)
    x, y = places[None, :] - texture.x, places[:, None] - texture.y
    cos, sin = math.cos(texture.tilt), math.sin(texture.tilt)
    mask = PATTERNS[texture.pattern](
        (x * cos + y * sin) / texture.period, (y * cos - x * sin) / texture.period
    )
    share = mask.reshape(SIZE, k, SIZE, k).mean(axis=(1, 3))[..., None]
    color, ground = np.array(COLORS[texture.color]), np.array(GROUNDS[texture.ground])
    middle = (color + ground) / 2
    picture = share * color + (1 - share) * ground
    return np.rint(middle + texture.contrast * (picture - middle)).astype(np.uint8)


WORLD = World(
    folder=Path(__file__).parent,
    heads={
        "scale": tuple(PERIODS),
        "color": tuple(COLORS),
        "ground": tuple(GROUNDS),
        "pattern": tuple(PATTERNS),
    },
    caption=caption,
    sample_scene=sample_texture,
    render=render,
)
