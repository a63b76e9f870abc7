"""The renderer: 6 shapes x 8 colours x 4 backgrounds = 192 captions, with position, size and
rotation left free.

python -m examples.shapes.render --output_dir out/shapes --num_images 2000
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from examples.worlds import Attributes, World, add_world_flag, load_world

SIZE = 64  # pixels
SUPERSAMPLE = 4

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (220, 30, 30),
    "orange": (245, 140, 20),
    "yellow": (250, 225, 50),
    "green": (40, 170, 60),
    "cyan": (60, 210, 220),
    "blue": (50, 90, 240),
    "purple": (150, 50, 190),
    "white": (245, 245, 245),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "black": (15, 15, 15),
    "navy": (20, 25, 80),
    "gray": (128, 128, 128),
    "brown": (95, 55, 25),
}


def _regular(num_corners: int, inner: float = 1.0) -> Callable[[], list[tuple[float, float]]]:
    """Corners of a regular polygon of circumradius 1; `inner` < 1 pulls in every second corner (a
    star).
    """

    def corners() -> list[tuple[float, float]]:
        radii = [1.0 if i % 2 == 0 else inner for i in range(num_corners)]
        return [
            (
                r * math.sin(2 * math.pi * i / num_corners),
                -r * math.cos(2 * math.pi * i / num_corners),
            )
            for i, r in enumerate(radii)
        ]

    return corners


def _cross(arm: float = 0.34) -> list[tuple[float, float]]:
    quarter = [(arm, -1.0), (arm, -arm), (1.0, -arm)]
    return [
        (x * math.cos(q) - y * math.sin(q), x * math.sin(q) + y * math.cos(q))
        for q in (0, math.pi / 2, math.pi, 3 * math.pi / 2)
        for x, y in quarter
    ]


# Every outline lies in the unit disc; the ring is a disc with a hole.
OUTLINES: dict[str, Callable[[], list[tuple[float, float]]]] = {
    "circle": _regular(96),
    "square": _regular(4),
    "triangle": _regular(3),
    "star": _regular(10, inner=0.42),
    "cross": _cross,
    "ring": _regular(96),
}
RING_HOLE = 0.55
SHAPES = tuple(OUTLINES)


@dataclass(frozen=True)
class Scene:
    """One picture: three attributes that the caption names and four that it does not.

    `x`, `y` (centre) and `radius` are pixels, `rotation` radians.
    """

    shape: str
    color: str
    background: str
    x: float
    y: float
    radius: float
    rotation: float

    @property
    def caption(self) -> str:
        return caption((self.shape, self.color, self.background))


def caption(attributes: Attributes) -> str:
    """The sentence for three attributes, for example "a red star on a navy background"."""
    shape, color, background = attributes
    article = "an" if color[0] in "aeiou" else "a"
    return f"{article} {color} {shape} on a {background} background"


def sample_scene(attributes: Attributes, rng: np.random.Generator) -> Scene:
    """Draws the free quantities of a scene; the whole shape stays inside the picture."""
    radius = rng.uniform(13.0, 24.0)
    x, y = rng.uniform(radius + 2, SIZE - radius - 2, size=2)
    shape, color, background = attributes
    return Scene(
        shape,
        color,
        background,
        x=float(x),
        y=float(y),
        radius=float(radius),
        rotation=float(rng.uniform(0, 2 * math.pi)),
    )


def edges(scene: Scene) -> list[list[tuple[float, float]]]:
    """The closed lines of a figure in supersampled pixels: its outline and, of a ring, the hole."""
    k, cos, sin = SUPERSAMPLE, math.cos(scene.rotation), math.sin(scene.rotation)
    radii = [scene.radius, scene.radius * RING_HOLE] if scene.shape == "ring" else [scene.radius]
    return [
        [
            (
                k * (scene.x + radius * (x * cos - y * sin)),
                k * (scene.y + radius * (x * sin + y * cos)),
            )
            for x, y in OUTLINES[scene.shape]()
        ]
        for radius in radii
    ]


def render(scene: Scene) -> np.ndarray:
    """Draws a scene, anti-aliased. Returns [64, 64, 3] uint8."""
    k = SUPERSAMPLE
    image = Image.new("RGB", (SIZE * k, SIZE * k), BACKGROUNDS[scene.background])
    draw = ImageDraw.Draw(image)
    for line, fill in zip(
        edges(scene), (COLORS[scene.color], BACKGROUNDS[scene.background]), strict=False
    ):
        draw.polygon(line, fill=fill)
    return np.asarray(image.reduce(k))


WORLD = World(
    folder=Path(__file__).parent,
    heads={"shape": SHAPES, "color": tuple(COLORS), "background": tuple(BACKGROUNDS)},
    caption=caption,
    sample_scene=sample_scene,
    render=render,
)
ATTRIBUTES, CAPTIONS = WORLD.attributes, WORLD.captions
sample_dataset, write_dataset = WORLD.sample_dataset, WORLD.write_dataset


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--num_images", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    add_world_flag(parser)
    args = parser.parse_args()
    load_world(args.world).write_dataset(args.output_dir, args.num_images, args.seed)


if __name__ == "__main__":
    main()
