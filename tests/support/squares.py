"""Training data cut to one square, as the data sets of most tests are."""

from __future__ import annotations

from typing import Any

from lcm.data.buckets import one_square
from lcm.data.config import SampleConfig
from lcm.data.dataset import TrainDataset
from lcm.data.records import Record


def square_data(
    records: list[Record],
    side: int,
    latent_shape: tuple[int, int, int],
    *,
    samples: SampleConfig | None = None,
    seed: int = 0,
    **options: Any,
) -> TrainDataset:
    """The data set of these records, all cut to squares of `side` pixels."""
    buckets = one_square(side, len(records))
    return TrainDataset(
        records, samples or SampleConfig(), latent_shape, seed, buckets=buckets, **options
    )
