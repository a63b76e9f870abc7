"""Exact pixels: what is cut out of a picture, and what is told of it."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lcm.data.config import SampleConfig
from lcm.data.crops import choose_crop
from tests.support.records import SIZES, make_data, places, png_record


def as_bytes(pixels: Tensor) -> np.ndarray:
    """Pixels [3, R, R] in -1..1 back as [R, R, 3] in 0..255."""
    return ((pixels.double() + 1) * 127.5).round().permute(1, 2, 0).numpy().astype(np.int64)


@pytest.mark.parametrize(
    "size",
    [(16, 16), (40, 16), (16, 40), (17, 33), (33, 17), (1, 1), (3, 200), (15, 16), (100, 99)],
)
@pytest.mark.parametrize("center_crop", [False, True])
def test_pixels_have_one_shape_type_and_range(size: tuple[int, int], center_crop: bool) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    data = make_data([png_record(noise)], center_crop=center_crop, random_flip=True)
    for epoch in range(4):
        sample = data[epoch, 0]
        assert (sample.content.tensor.shape, sample.content.tensor.dtype) == (
            (3, 16, 16),
            torch.float32,
        )
        assert -1 <= sample.content.tensor.min() <= sample.content.tensor.max() <= 1
        size_told = sample.size
        assert (size_told.original_height, size_told.original_width) == (size[1], size[0])
        assert (size_told.height, size_told.width) == (16, 16)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("center_crop", [False, True])
def test_an_image_of_the_right_size_passes_unchanged(interpolation: str, center_crop: bool) -> None:
    pixels = np.arange(16 * 16 * 3, dtype=np.int64).reshape(16, 16, 3).astype(np.uint8)
    data = make_data(
        [png_record(pixels)], interpolation_type=interpolation, center_crop=center_crop
    )
    want = torch.from_numpy(pixels).permute(2, 0, 1).float() / 127.5 - 1
    sample = data[3, 0]
    assert torch.equal(sample.content.tensor, want)
    assert dataclasses.astuple(sample.size) == (16, 16, 0, 0, 16, 16)
    assert (want.min(), want.max()) == (-1, 1)


@pytest.mark.parametrize(
    ("size", "corner"),
    [((40, 16), (0, 12)), ((16, 40), (12, 0)), ((18, 16), (0, 1)), ((16, 16), (0, 0))],
)
def test_the_centre_crop_takes_the_middle(size: tuple[int, int], corner: tuple[int, int]) -> None:
    image = places(*size)
    data = make_data([png_record(image)], center_crop=True)
    top, left = corner
    for epoch in range(3):
        sample = data[epoch, 0]
        np.testing.assert_array_equal(
            as_bytes(sample.content.tensor), image[top : top + 16, left : left + 16]
        )
        assert dataclasses.astuple(sample.size) == (size[1], size[0], top, left, 16, 16)


@pytest.mark.parametrize("size", [(40, 16), (16, 40)])
@pytest.mark.parametrize("random_flip", [False, True])
def test_the_corner_that_is_told_is_the_corner_of_the_pixels(
    size: tuple[int, int], random_flip: bool
) -> None:
    image = places(*size)
    data = make_data([png_record(image)], random_flip=random_flip)
    corners: Counter[int] = Counter()
    mirrored = 0
    for epoch in range(400):
        sample = data[epoch, 0]
        top, left = sample.size.crop_top, sample.size.crop_left
        got = as_bytes(sample.content.tensor)
        is_mirrored = bool(got[0, 0, 0] > got[0, 1, 0])
        mirrored += is_mirrored
        want = image[:, ::-1] if is_mirrored else image
        assert 0 <= top <= size[1] - 16
        assert 0 <= left <= size[0] - 16
        np.testing.assert_array_equal(got, want[top : top + 16, left : left + 16])
        corners[top + left] += 1
    assert set(corners) == set(range(25))  # 16 expected of each
    assert max(corners.values()) < 40
    assert 150 < mirrored < 250 if random_flip else mirrored == 0


def test_the_mirror_image_differs_in_nothing_but_the_mirror() -> None:
    record = png_record(places(16, 16))
    plain, flipped = make_data([record]), make_data([record], random_flip=True)
    seen = set()
    for epoch in range(20):
        a, b = plain[epoch, 0].content.tensor, flipped[epoch, 0].content.tensor
        is_mirrored = not torch.equal(a, b)
        seen.add(is_mirrored)
        assert torch.equal(b, a.flip(-1) if is_mirrored else a)
    assert seen == {False, True}


def test_nearest_upscaling_repeats_pixels() -> None:
    small = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    sample = make_data([png_record(small)], interpolation_type="nearest")[0, 0]
    np.testing.assert_array_equal(
        as_bytes(sample.content.tensor), small.repeat(2, axis=0).repeat(2, axis=1)
    )
    assert (sample.size.original_height, sample.size.original_width) == (8, 8)


@pytest.mark.parametrize(
    ("interpolation", "overshoots"),
    [("nearest", 0), ("bilinear", 0), ("bicubic", 1), ("lanczos", 1)],
)
def test_every_interpolation_is_the_one_it_is_named_for(
    interpolation: str, overshoots: int
) -> None:
    step = np.full((8, 8, 3), 64, dtype=np.uint8)
    step[:, 4:] = 192
    got = as_bytes(
        make_data([png_record(step)], interpolation_type=interpolation)[0, 0].content.tensor
    )
    assert (got.min() < 64, got.max() > 192) == (bool(overshoots), bool(overshoots))
    assert len(np.unique(got)) == 2 if interpolation == "nearest" else len(np.unique(got)) > 2
    np.testing.assert_array_equal(got + got[:, ::-1], 256)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("size", [(5, 8), (64, 48), (16, 200)])
def test_resizing_keeps_a_plain_colour(interpolation: str, size: tuple[int, int]) -> None:
    plain = np.full((size[1], size[0], 3), (3, 130, 250), dtype=np.uint8)
    got = as_bytes(
        make_data([png_record(plain)], interpolation_type=interpolation)[0, 0].content.tensor
    )
    np.testing.assert_array_equal(got, np.broadcast_to([3, 130, 250], (16, 16, 3)))


def test_resizing_keeps_the_proportions() -> None:
    """A 64 x 32 ramp becomes 32 x 16: the centre crop spans the middle half of the ramp."""
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[None, :, None] * 4, (32, 64, 3))
    got = as_bytes(
        make_data(
            [png_record(np.ascontiguousarray(ramp))],
            center_crop=True,
            interpolation_type="bilinear",
        )[0, 0].content.tensor
    )
    np.testing.assert_allclose(got[8, :, 0], 4 * (16.5 + 2 * np.arange(16)), atol=2)


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
