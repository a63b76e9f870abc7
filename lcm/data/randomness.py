"""Random numbers as a function of seed, epoch and sample."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np


def sample_rng(seed: int, epoch: int, key: str) -> np.random.Generator:
    """The random numbers of one sample in one epoch, the same on every machine, process and
    worker.
    """
    digest = hashlib.sha256(f"{seed}/{epoch}/{key}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


class Draws(NamedTuple):
    """Uniform numbers in [0, 1) of one sample: all are drawn, used or not, so an option never
    changes the other numbers.
    """

    caption: float
    empty: float
    flip: float
    top: float
    left: float
    time: float
    guidance: float


def draw(seed: int, epoch: int, key: str) -> tuple[np.random.Generator, Draws]:
    """The uniforms of a sample in an epoch, and the generator that goes on with its noises."""
    rng = sample_rng(seed, epoch, key)
    return rng, Draws(*rng.random(7).tolist())
