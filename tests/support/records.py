"""Records of pictures that are made in memory, and what a sample made of them is."""

from __future__ import annotations

import io
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from lcm.data.config import SampleConfig
from lcm.data.dataset import TrainDataset
from lcm.data.records import Record
from tests.support.squares import square_data

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


LATENT = (4, 3, 5)


def png_record(
    pixels: np.ndarray, key: str = "x", captions: tuple[str, ...] = ("a ball",)
) -> Record:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return Record(key, captions, partial(io.BytesIO, file.getvalue()))


def places(width: int, height: int) -> np.ndarray:
    """Every pixel tells its own place: red is x, green is y."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x, y, np.full_like(x, 7)], axis=-1).astype(np.uint8)


def make_data(records: list[Record], seed: int = 0, **changes: Any) -> TrainDataset:
    side = changes.pop("resolution", 16)
    return square_data(records, side, LATENT, samples=SampleConfig(**changes), seed=seed)


def noisy_records(count: int, side: int = 18) -> list[Record]:
    rng = np.random.default_rng(1)
    return [
        png_record(
            rng.integers(0, 256, (side, side + 4, 3), dtype=np.uint8),
            f"{i}.png",
            (f"one {i}", f"two {i}", f"three {i}"),
        )
        for i in range(count)
    ]
