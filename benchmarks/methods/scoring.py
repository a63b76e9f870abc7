"""One row of numbers for a set of latents, beside the teacher's own set of the same captions and
seeds.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from benchmarks.methods.metrics import judge_fd, judge_features, places
from examples.shapes.evaluate import (
    decode,
    diversity_ratio,
    endpoint_nmse,
    load_pipe,
    other_seeds,
    prompts_and_seeds,
    teacher_endpoints,
)
from examples.shapes.judge import Judge
from examples.shapes.render import CAPTIONS
from lcm.evaluation.bootstrap import half_width

BLOCK = 2 * len(CAPTIONS)
"""Sets are halved for the Frechet distance, and each half holds every caption equally often."""


def check_num_images(num_images: int) -> None:
    """Raises ValueError for a set that cannot be halved fairly or has no two pictures of a
    caption.
    """
    if num_images < BLOCK or num_images % BLOCK:
        raise ValueError(
            f"num_images must be a multiple of {BLOCK} (two halves of {len(CAPTIONS)} captions); "
            f"got {num_images}"
        )


@dataclass(frozen=True)
class Reference:
    """The teacher's endpoints: latents [N, 4, 8, 8], judge features [N, 64], `places` [N, 3]."""

    latents: Tensor
    features: np.ndarray
    places: Tensor

    def first(self, num_images: int) -> Reference:
        """The same for fewer pictures; row i of a smaller set is row i of a larger one."""
        return Reference(
            self.latents[:num_images], self.features[:num_images], self.places[:num_images]
        )


@functools.cache
def load_reference(teacher: Path, num_images: int, guidance_scale: float) -> Reference:
    """Drawn once, then read from disk. Decoded once a process."""
    latents = teacher_endpoints(teacher, num_images, guidance_scale)
    images = decode(load_pipe(teacher), latents)
    return Reference(latents, judge_features(Judge.load(), images), places(images))


def accuracy(correct: np.ndarray, prompts: list[str]) -> dict[str, Any]:
    """How many pictures are right, in all and in each attribute, of `Judge.correct` [N, 3]; half
    the bootstrap interval over prompts.
    """
    right = correct.all(axis=1)
    shape, color, background = np.round(correct.mean(axis=0), 4).tolist()
    return {
        "images": len(correct),
        "all_right": round(float(right.mean()), 4),
        "plus_minus": round(half_width(right, prompts), 4),
        "shape": shape,
        "color": color,
        "background": background,
    }


def measure(
    pipe: Any, judge: Judge, latents: Tensor, reference: Reference, *, is_paired: bool
) -> dict[str, Any]:
    """Every measure of README.md for latents [N, 4, 8, 8] of `prompts_and_seeds`; NMSE only where
    `is_paired`.
    """
    images, prompts = decode(pipe, latents), prompts_and_seeds(len(latents))[0]
    reference = reference.first(len(latents))
    distance, floor = judge_fd(judge_features(judge, images), reference.features)
    row = {
        **accuracy(judge.correct(images, prompts), prompts),
        "diversity_ratio": round(diversity_ratio(latents, reference.latents), 4),
        "place_diversity_ratio": round(diversity_ratio(places(images), reference.places), 4),
        "judge_fd": round(distance, 4),
        "judge_fd_floor": round(floor, 4),
    }
    if is_paired:
        row["endpoint_nmse"] = round(
            endpoint_nmse(latents, reference.latents, other_seeds(reference.latents)), 5
        )
    return row
