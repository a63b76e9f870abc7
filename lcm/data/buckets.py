"""Which shape every picture is cut to: one square for all, or buckets of about as many pixels in
other aspect ratios.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from diffusers.training_utils import find_nearest_bucket, generate_aspect_ratio_buckets

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


def by_aspect_ratio(pictures: Sequence[Picture], resolution: int, divisor: int) -> Buckets:
    """The nearest of the aspect ratios that diffusers lists, sides being multiples of `divisor`,
    about resolution^2 pixels each.
    """
    shapes = generate_aspect_ratio_buckets(resolution, divisor)
    nearest = [find_nearest_bucket(picture.height, picture.width, shapes) for picture in pictures]
    used = sorted(set(nearest))
    return Buckets(
        resolution,
        [shapes[number] for number in used],
        np.array([used.index(number) for number in nearest], dtype=np.int64),
    )
