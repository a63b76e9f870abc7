"""Samples made of trajectories, and the order in which their numbers are drawn."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from lcm.data.batch import Pixels, SampleBatch, Trajectory, collate
from lcm.data.config import DataConfig, SampleConfig
from lcm.data.dataset import TrainDataset
from lcm.data.load import load_records
from lcm.data.randomness import sample_rng
from lcm.data.records import Record
from lcm.data.sampler import StepSampler
from lcm.methods.context import Numbers
from lcm.models.families import Family
from tests.support.squares import square_data
from tests.support.trajectories import QUICK, SHAPE, cached, records_of


def data_of(trajectories: Any, records: list[Record], **options: Any) -> TrainDataset:
    return square_data(records, 16, SHAPE[1:], seed=3, trajectories=trajectories, **options)


def test_samples_come_with_their_trajectories_in_worker_processes_too(
    family: Family, folder: Path
) -> None:
    records = records_of(70)
    data = data_of(cached(family, records, folder, QUICK), records)
    sample = data[2, 65]
    assert (sample.key, sample.prompt) == (records[65].key, records[65].captions[0])
    assert dataclasses.astuple(sample.size) == (16, 16, 0, 0, 16, 16)
    assert isinstance(sample.content, Trajectory)
    assert torch.equal(sample.content.tensor, data[5, 65].content.tensor)
    assert not torch.equal(sample.noise, data[5, 65].noise)

    def batches(workers: int) -> list[SampleBatch]:
        sampler = StepSampler(
            [np.arange(70)], 4, accumulation=1, process=(0, 1), steps=range(5), seed=0
        )
        return list(
            DataLoader(data, batch_sampler=sampler, collate_fn=collate, num_workers=workers)
        )

    for a, b in zip(batches(0), batches(2), strict=True):
        assert isinstance(a.content, Trajectory) and isinstance(b.content, Trajectory)
        assert (a.keys, a.content.tensor.shape, a.content.tensor.dtype) == (
            b.keys,
            (4, 2, *SHAPE[1:]),
            torch.float32,
        )
        assert torch.equal(a.content.tensor, b.content.tensor)


def test_too_few_trajectories_are_refused(family: Family, folder: Path) -> None:
    trajectories = cached(family, records_of(3), folder, QUICK)
    with pytest.raises(ValueError, match="4 samples need as many trajectories; got 3"):
        data_of(trajectories, records_of(4))


@pytest.mark.parametrize("extra_noises", [0, 1, 3])
def test_the_numbers_of_a_sample_are_drawn_in_this_order_for_ever(
    images: Path, extra_noises: int
) -> None:
    records = load_records(DataConfig(train_data_dir=str(images)))
    data = square_data(
        records,
        8,
        (4, 3, 5),
        samples=SampleConfig(proportion_empty_prompts=0.5, random_flip=True),
        seed=11,
        extra_numbers=Numbers(extra_noises),
    )
    empty_prompts = set()
    for epoch, index in ((0, 0), (0, 5), (4, 2), (9, 3)):
        sample = data[epoch, index]
        rng = sample_rng(11, epoch, records[index].key)
        _caption, empty, flip, top, left, time, guidance = rng.random(7)
        posterior_noise, noise = rng.standard_normal((2, 4, 3, 5), dtype=np.float32)
        landing = rng.random()
        assert (sample.uniform_time, sample.uniform_guidance, sample.uniform_landing) == (
            time,
            guidance,
            landing,
        )
        np.testing.assert_array_equal(sample.posterior_noise, posterior_noise)
        np.testing.assert_array_equal(sample.noise, noise)
        if extra_noises:
            assert sample.extra_noise is not None
            expected = rng.standard_normal((extra_noises, 4, 3, 5), dtype=np.float32)
            np.testing.assert_array_equal(sample.extra_noise, expected)
        else:
            assert sample.extra_noise is None
        assert (sample.prompt == "") == (empty < 0.5)
        # 20 x 16 becomes 10 x 8
        assert (sample.size.crop_top, sample.size.crop_left) == (
            int(top * 1),
            int(left * 3),
        )
        image = records[index].image().resize((10, 8), Image.Resampling.LANCZOS)
        corner = np.asarray(image)[:, ::-1] if flip < 0.5 else np.asarray(image)
        pixels = corner[:8, sample.size.crop_left : sample.size.crop_left + 8] / 127.5 - 1.0
        assert isinstance(sample.content, Pixels)
        np.testing.assert_allclose(sample.content.tensor.permute(1, 2, 0), pixels, atol=1e-6)
        empty_prompts.add(sample.prompt == "")
    assert empty_prompts == {False, True}


def test_the_numbers_do_not_depend_on_where_latents_come_from(family: Family, folder: Path) -> None:
    records = records_of(2)
    data = data_of(cached(family, records, folder, QUICK), records, extra_numbers=Numbers(2))
    sample, rng = data[1, 1], sample_rng(3, 1, records[1].key)
    assert (sample.uniform_time, sample.uniform_guidance) == tuple(rng.random(7)[5:])
    np.testing.assert_array_equal(
        sample.noise, rng.standard_normal((2, *SHAPE[1:]), dtype=np.float32)[1]
    )
    assert sample.uniform_landing == rng.random()
    np.testing.assert_array_equal(
        sample.extra_noise, rng.standard_normal((2, *SHAPE[1:]), dtype=np.float32)
    )  # type: ignore[arg-type]
