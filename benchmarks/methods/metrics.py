"""What is measured on a set of pictures: pure functions of latents, pictures and features.

A set has the order of `examples.shapes.evaluate.prompts_and_seeds`: the 192 captions in turn, every
picture with a seed of its own. So row i has caption i % 192, and a block of 192 rows holds every
caption once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from examples.shapes.judge import Judge
from examples.shapes.render import ATTRIBUTES, BACKGROUNDS, COLORS, SIZE


def places(images: Sequence[Image.Image]) -> Tensor:
    """What captions leave free, read off the pictures: [N, 3] pixels, centre (x, y) and square root
    of the area of the shape.

    A pixel belongs to the shape when its colour is nearer to the caption's colour than to its
    background. A picture with no such pixel counts as a shape of area 0 in the middle.
    """
    rows = np.zeros((len(images), 3))
    y, x = np.mgrid[:SIZE, :SIZE]
    for i, image in enumerate(images):
        _, color, background = ATTRIBUTES[i % len(ATTRIBUTES)]
        pixels = np.asarray(image.convert("RGB"), dtype=np.float64)
        to_color, to_background = (
            np.square(pixels - rgb).sum(axis=2) for rgb in (COLORS[color], BACKGROUNDS[background])
        )
        inside = to_color < to_background
        rows[i] = (
            (x[inside].mean(), y[inside].mean(), math.sqrt(inside.sum()))
            if inside.any()
            else (SIZE / 2, SIZE / 2, 0.0)
        )
    return torch.from_numpy(rows)


@torch.no_grad()
def judge_features(
    judge: Judge, images: Sequence[Image.Image], batch_size: int = 256
) -> np.ndarray:
    """The judge's last hidden layer, [N, 64] float32."""
    pixels = torch.from_numpy(np.stack([np.asarray(image.convert("RGB")) for image in images]))
    pixels = pixels.permute(0, 3, 1, 2)
    features: np.ndarray = torch.cat(
        [judge.trunk(part.float() / 127.5 - 1.0) for part in pixels.split(batch_size)]
    ).numpy()
    return features


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """|mu_a - mu_b|^2 + tr(C_a + C_b - 2 (C_a^1/2 C_b C_a^1/2)^1/2) of two sets of features [N, D].

    The trace of the square root needs only the eigenvalues of that symmetric product. The estimate
    is biased upwards by finite N, so it means something only beside `judge_fd`'s floor.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    product = root @ cov_b @ root
    cross = np.sqrt(np.linalg.eigvalsh((product + product.T) / 2).clip(min=0)).sum()
    return float(
        np.square(a.mean(axis=0) - b.mean(axis=0)).sum()
        + np.trace(cov_a)
        + np.trace(cov_b)
        - 2 * cross
    )


def judge_fd(student: np.ndarray, teacher: np.ndarray) -> tuple[float, float]:
    """(distance, floor) between features [N, D] of the same captions and seeds.

    Both compare the first half of the rows with the teacher's second half, so no seed occurs on
    both sides: the distance with the student's first half, the floor with the teacher's own. A
    student that draws from the teacher's distribution has the floor.
    """
    half = len(teacher) // 2
    return frechet_distance(student[:half], teacher[half:]), frechet_distance(
        teacher[:half], teacher[half:]
    )
