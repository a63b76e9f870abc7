"""Aspect-ratio buckets: shapes near the pictures' own."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lcm.data.buckets import Buckets, by_aspect_ratio, one_square
from lcm.data.pictures import Picture
from tests.support.records import SIZES


def pictures(sizes: list[tuple[int, int]]) -> list[Picture]:
    return [Picture("", width, height) for width, height in sizes]


@pytest.mark.parametrize(("resolution", "divisor"), [(512, 64), (1024, 32), (64, 16)])
def test_shapes_have_the_pixels_of_the_square_and_the_nearest_aspect(
    resolution: int, divisor: int
) -> None:
    buckets = by_aspect_ratio(pictures(SIZES), resolution, divisor)
    for index, (width, height) in enumerate(SIZES):
        down, across = buckets.shape(index)
        assert down % divisor == across % divisor == 0
        # a side is rounded by half a divisor at most
        assert abs(math.log(down * across / resolution**2)) < 2.5 * divisor / min(down, across)
        if width == height:
            assert down == across == resolution
        elif 0.75 < width / height < 4 / 3:
            assert abs(math.log((across / down) / (width / height))) < 0.35
        else:
            assert (across > down) == (width > height)
    assert sum(map(len, buckets.groups)) == len(SIZES)


def test_one_square_is_one_group_in_order() -> None:
    buckets = one_square(64, 5)
    (group,) = buckets.groups
    assert group.tolist() == list(range(5)) and buckets.shape(3) == (64, 64)


def test_shapes_are_counted_the_most_frequent_first() -> None:
    assert list(Buckets(64, [(64, 64), (48, 80)], np.array([0, 1, 1])).counts().items()) == [
        ("80x48", 2),
        ("64x64", 1),
    ]
