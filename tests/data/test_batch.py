"""Samples side by side, in order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from lcm.data.batch import Pixels, collate
from lcm.data.config import DataConfig
from lcm.data.load import load_records
from lcm.methods.context import Numbers
from tests.support.records import make_data, noisy_records
from tests.support.squares import square_data


def test_collate_stacks_in_order() -> None:
    data = make_data(noisy_records(3))
    samples = [data[0, index] for index in (2, 0, 1)]
    batch = collate(samples)
    assert batch.keys == ["2.png", "0.png", "1.png"]
    assert batch.prompts == [sample.prompt for sample in samples]
    assert batch.sizes == [sample.size for sample in samples]
    assert batch.uniform_time.dtype == batch.uniform_guidance.dtype == torch.float32
    for i, sample in enumerate(samples):
        for name in ("noise", "posterior_noise"):
            assert torch.equal(getattr(batch, name)[i], getattr(sample, name))
        assert torch.equal(batch.content.tensor[i], sample.content.tensor)
        assert batch.uniform_time[i] == np.float32(sample.uniform_time)
        assert batch.uniform_guidance[i] == np.float32(sample.uniform_guidance)


def test_a_batch_stacks_the_new_numbers_in_order(images: Path) -> None:
    records = load_records(DataConfig(train_data_dir=str(images)))
    for extra_noises in (0, 2):
        data = square_data(records, 8, (4, 3, 5), seed=11, extra_numbers=Numbers(extra_noises))
        samples = [data[0, index] for index in (2, 0, 1)]
        batch = collate(samples)
        assert isinstance(batch.content, Pixels)
        assert batch.uniform_landing.dtype == torch.float32
        assert batch.uniform_landing.tolist() == [
            float(np.float32(sample.uniform_landing)) for sample in samples
        ]
        if extra_noises:
            assert batch.extra_noise is not None
            assert (batch.extra_noise.shape, batch.extra_noise.dtype) == (
                (3, 2, 4, 3, 5),
                torch.float32,
            )
            assert all(
                torch.equal(row, sample.extra_noise)
                for row, sample in zip(batch.extra_noise, samples, strict=True)
            )
        else:
            assert batch.extra_noise is None
