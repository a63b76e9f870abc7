"""Aspect-ratio buckets: shapes near the pictures' own, batches of one shape, every sample once an
epoch.
"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from lcm.data.buckets import Buckets, by_aspect_ratio, one_square
from lcm.data.config import SampleConfig
from lcm.data.crops import choose_crop
from lcm.data.pictures import Picture
from lcm.data.sampler import StepSampler

SIZES = [
    (512, 512),
    (1000, 400),
    (400, 1000),
    (300, 400),
    (4000, 3000),
    (1, 1),
    (5000, 10),
    (640, 480),
    (513, 511),
]


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


def test_a_crop_covers_its_shape_without_stretching() -> None:
    rng = np.random.default_rng(0)
    for width, height in SIZES[:-3]:
        for target in ((512, 512), (384, 704), (704, 320)):
            crop = choose_crop(SampleConfig(), (height, width), target, *rng.random(3))
            resized = crop.resized
            assert resized[0] >= target[1] and resized[1] >= target[0]
            assert resized[0] == target[1] or resized[1] == target[0]
            assert abs(resized[0] * height / (resized[1] * width) - 1) <= 0.5 / min(target) + 1e-9
            assert (
                0 <= crop.size.crop_left <= resized[0] - target[1]
                and 0 <= crop.size.crop_top <= resized[1] - target[0]
            )
            assert (crop.size.height, crop.size.width) == target
            assert (crop.size.original_height, crop.size.original_width) == (height, width)
            pixels = crop.pixels(Image.new("RGB", (width, height), (255, 0, 127)), "nearest")
            assert pixels.shape == (3, *target)


def test_one_square_is_one_group_in_order() -> None:
    buckets = one_square(64, 5)
    (group,) = buckets.groups
    assert group.tolist() == list(range(5)) and buckets.shape(3) == (64, 64)


# --- the order of samples -------------------------------------------------------------------------

GROUPS = [np.array([0, 3, 6, 7, 9, 10, 11, 12]), np.array([1, 2]), np.array([4, 5, 8])]


def steps_of(
    steps: range, process: tuple[int, int] = (0, 1), batch: int = 4, accumulation: int = 1
) -> list[list[tuple[int, int]]]:
    return list(
        StepSampler(GROUPS, batch, accumulation=accumulation, process=process, steps=steps, seed=5)
    )


def test_all_batches_of_a_step_have_one_shape() -> None:
    group_of = {int(index): number for number, group in enumerate(GROUPS) for index in group}
    ranks = [steps_of(range(30), (rank, 2), batch=2, accumulation=2) for rank in range(2)]
    for step in range(30):
        batches = [ranks[rank][2 * step + micro] for rank in range(2) for micro in range(2)]
        assert len({group_of[index] for batch in batches for _, index in batch}) == 1


@pytest.mark.parametrize(("processes", "accumulation", "batch"), [(2, 1, 4), (1, 4, 2), (4, 2, 1)])
def test_a_step_holds_the_same_samples_however_it_is_divided(
    processes: int, accumulation: int, batch: int
) -> None:
    whole = steps_of(range(20), batch=8)
    parts = [
        steps_of(range(20), (rank, processes), batch, accumulation) for rank in range(processes)
    ]
    for step in range(20):
        divided = [
            ref
            for part in parts
            for refs in part[step * accumulation : (step + 1) * accumulation]
            for ref in refs
        ]
        assert Counter(divided) == Counter(whole[step])


def test_every_sample_comes_once_in_every_epoch() -> None:
    seen = Counter(ref for batch in steps_of(range(400)) for ref in batch)
    assert set(seen.values()) == {1}
    for group in GROUPS:
        last = max(epoch for epoch, index in seen if index in group)
        assert last > 100
        for epoch in range(last):  # the last one is under way
            assert {index for e, index in seen if e == epoch and index in group} == set(
                group.tolist()
            )


def test_groups_keep_pace_with_each_other() -> None:
    for n in (10, 57, 400):
        epochs = Counter(index for batch in steps_of(range(n)) for _, index in batch)
        passed = [sum(epochs[int(i)] for i in group) / len(group) for group in GROUPS]
        # a group is due at a random moment of its interval, one batch long
        assert all(
            abs(p - 4 * n / 13) <= 4 / len(group) + 4 / 13
            for p, group in zip(passed, GROUPS, strict=True)
        )


def test_groups_come_in_no_fixed_order() -> None:
    group_of = {int(index): number for number, group in enumerate(GROUPS) for index in group}
    order = [group_of[batch[0][1]] for batch in steps_of(range(130))]
    rounds = {tuple(order[i : i + 13]) for i in range(0, 130, 13)}
    assert len(rounds) > 5


def test_a_resumed_run_goes_on_with_the_same_batches() -> None:
    assert steps_of(range(17, 40)) == steps_of(range(40))[17:]


def test_shapes_are_counted_the_most_frequent_first() -> None:
    assert list(Buckets(64, [(64, 64), (48, 80)], np.array([0, 1, 1])).counts().items()) == [
        ("80x48", 2),
        ("64x64", 1),
    ]
