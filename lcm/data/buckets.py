"""Which shape every picture is cut to: one square for all, or buckets of about as many pixels in
other aspect ratios.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lcm.data.crops import Shape
from lcm.data.pictures import Picture


@dataclass(frozen=True)
class Buckets:
    """The `shapes` that occur, about `resolution`^2 pixels each, and for every record the number of
    its own.
    """

    resolution: int
    shapes: list[Shape]
    numbers: npt.NDArray[np.int64]

    def shape(self, index: int) -> Shape:
        """The shape that record `index` is cut to."""
        return self.shapes[int(self.numbers[index])]

    @property
    def groups(self) -> list[npt.NDArray[np.int64]]:
        """The records of every bucket."""
        return [np.flatnonzero(self.numbers == number) for number in range(len(self.shapes))]

    def counts(self) -> dict[str, int]:
        """How many pictures have each shape, written as width x height; the most frequent first."""
        counted = sorted(
            ((len(group), shape) for group, shape in zip(self.groups, self.shapes, strict=True)),
            reverse=True,
        )
        return {f"{width}x{height}": count for count, (height, width) in counted}


def one_square(resolution: int, count: int) -> Buckets:
    """The same square for all `count` records."""
    return Buckets(resolution, [(resolution, resolution)], np.zeros(count, dtype=np.int64))


ASPECT_RATIOS = (
    (1, 1),
    (4, 5),
    (5, 4),
    (2, 3),
    (3, 2),
    (3, 4),
    (4, 3),
    (9, 16),
    (16, 9),
    (1, 2),
    (2, 1),
)
"""Width to height, as diffusers' `generate_aspect_ratio_buckets` has them from 0.40 on."""


def shapes_of(resolution: int, divisor: int) -> list[Shape]:
    """Height and width of every aspect ratio: about resolution^2 pixels, sides being multiples of
    `divisor`.
    """
    shapes = []
    for width, height in ASPECT_RATIOS:
        tall = resolution / (width / height) ** 0.5
        sides = (tall, tall * width / height)
        shapes.append(tuple(max(divisor, round(side / divisor) * divisor) for side in sides))
    return list(dict.fromkeys((height, width) for height, width in shapes))


def nearest(picture: Picture, shapes: Sequence[Shape]) -> int:
    """Which of the shapes has most nearly the aspect ratio of a picture; the last of equals."""
    distances = [abs(picture.height * width - picture.width * height) for height, width in shapes]
    return len(shapes) - 1 - distances[::-1].index(min(distances))


def by_aspect_ratio(pictures: Sequence[Picture], resolution: int, divisor: int) -> Buckets:
    """Every picture gets the nearest of `shapes_of`."""
    shapes = shapes_of(resolution, divisor)
    chosen = [nearest(picture, shapes) for picture in pictures]
    used = sorted(set(chosen))
    return Buckets(
        resolution,
        [shapes[number] for number in used],
        np.array([used.index(number) for number in chosen], dtype=np.int64),
    )
