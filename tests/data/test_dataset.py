"""Random numbers of a sample follow from (seed, epoch, key) alone."""

from __future__ import annotations

import dataclasses
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lcm.data.batch import Sample, SampleBatch, collate
from lcm.data.sampler import StepSampler
from tests.support.folders import load_folder
from tests.support.records import LATENT, make_data, noisy_records, places, png_record
from tests.support.worlds import write_images


def assert_same(
    a: Sample | SampleBatch, b: Sample | SampleBatch, *, but: tuple[str, ...] = ()
) -> None:
    for field in dataclasses.fields(a):
        if field.name not in but:
            x, y = getattr(a, field.name), getattr(b, field.name)
            if field.name == "content":
                x, y = x.tensor, y.tensor
            assert torch.equal(x, y) if isinstance(x, Tensor) else x == y, field.name


OPTIONS = {"random_flip": True, "proportion_empty_prompts": 0.3}


def test_a_sample_does_not_depend_on_its_place_or_its_company() -> None:
    records = noisy_records(8)
    data = make_data(records, **OPTIONS)
    for other in (records[::-1], records[3:], [records[5]], [*noisy_records(20)[10:], *records]):
        shuffled = make_data(other, **OPTIONS)
        for epoch in (0, 7):
            assert_same(
                data[epoch, 5], shuffled[epoch, [record.key for record in other].index("5.png")]
            )


def test_a_sample_survives_pickling() -> None:
    data = make_data(noisy_records(3), **OPTIONS)
    copy = pickle.loads(pickle.dumps(data))
    assert len(copy) == 3
    for index in range(3):
        assert_same(data[4, index], copy[4, index])


def test_a_folder_survives_pickling(images: Path) -> None:
    data = make_data(load_folder(images))
    assert_same(data[1, 2], pickle.loads(pickle.dumps(data))[1, 2])


def test_a_sample_neither_uses_nor_moves_global_generators() -> None:
    data = make_data(noisy_records(2), **OPTIONS)
    torch.manual_seed(1)
    np.random.seed(1)
    first = data[0, 0]
    after = torch.rand(1), np.random.rand()
    torch.manual_seed(1)
    np.random.seed(1)
    assert after == (torch.rand(1), np.random.rand())
    data[0, 1], data[5, 0]
    assert_same(first, data[0, 0])


def test_epochs_seeds_and_keys_have_numbers_of_their_own() -> None:
    pixels = places(40, 16)
    records = [png_record(pixels, key) for key in ("a", "b", "1/a", "0/a")]
    samples = [
        make_data(records, seed)[epoch, i]
        for seed in (0, 1, 11)
        for epoch in (0, 1, 11)
        for i in range(4)
    ]
    for name in ("uniform_time", "uniform_guidance"):
        assert len({getattr(sample, name) for sample in samples}) == len(samples)
    for name in ("noise", "posterior_noise"):
        assert len({getattr(sample, name).numpy().tobytes() for sample in samples}) == len(samples)
    assert len({sample.size.crop_left for sample in samples}) > 10


@pytest.mark.parametrize(
    ("change", "may_change"),
    [
        ({"random_flip": True}, ("content",)),
        ({"center_crop": True}, ("content", "size")),
        ({"interpolation_type": "nearest"}, ("content",)),
        ({"proportion_empty_prompts": 0.5}, ("prompt",)),
        ({"resolution": 8}, ("content", "size")),
    ],
    ids=str,
)
def test_an_option_changes_no_number_but_its_own(
    change: dict[str, Any], may_change: tuple[str, ...]
) -> None:
    records = noisy_records(10)
    plain, changed = make_data(records), make_data(records, **change)
    for index in range(10):
        assert_same(plain[2, index], changed[2, index], but=may_change)
    for name in set(may_change) - {"size"}:
        assert any(
            not torch.equal(plain[2, i].content.tensor, changed[2, i].content.tensor)
            if name == "content"
            else getattr(plain[2, i], name) != getattr(changed[2, i], name)
            for i in range(10)
        )


def test_noise_is_normal_and_uniforms_are_uniform() -> None:
    data = make_data(noisy_records(4))
    samples = [data[epoch, index] for epoch in range(100) for index in range(4)]
    noise = torch.stack([sample.noise for sample in samples])
    posterior = torch.stack([sample.posterior_noise for sample in samples])
    for values in (noise, posterior):
        assert (values.shape, values.dtype) == ((400, *LATENT), torch.float32)
        assert abs(values.mean()) < 0.03  # 24000 values: four standard errors
        assert abs(values.var() - 1) < 0.05
        assert abs((values.abs() < 1).float().mean() - 0.6827) < 0.015
        assert values.mean(0).abs().max() < 0.25  # every place of its own: 400 values
    assert abs((noise * posterior).mean()) < 0.03
    assert abs((noise[1:] * noise[:-1]).mean()) < 0.03
    time = np.array([sample.uniform_time for sample in samples])
    guidance = np.array([sample.uniform_guidance for sample in samples])
    for values in (time, guidance):
        assert 0 <= values.min() <= values.max() < 1
        steps = (np.arange(400) + 0.5) / 400
        assert np.abs(np.sort(values) - steps).max() < 0.1  # Kolmogorov: 1.95 / sqrt(400)
    assert abs(np.corrcoef(time, guidance)[0, 1]) < 0.2
    assert abs(np.corrcoef(time[1:], time[:-1])[0, 1]) < 0.2


@pytest.mark.parametrize(
    ("proportion", "low", "high"), [(0.0, 0, 0), (0.3, 85, 155), (1.0, 400, 400)]
)
def test_the_asked_share_of_prompts_is_empty(proportion: float, low: int, high: int) -> None:
    data = make_data(noisy_records(4), proportion_empty_prompts=proportion)
    prompts = [data[epoch, index].prompt for epoch in range(100) for index in range(4)]
    assert low <= prompts.count("") <= high


def test_every_caption_of_a_list_is_drawn() -> None:
    data = make_data(noisy_records(1))
    counts = Counter(data[epoch, 0].prompt for epoch in range(300))
    assert set(counts) == {"one 0", "two 0", "three 0"}
    assert min(counts.values()) > 65  # 100 expected of each


def test_worker_processes_change_nothing(tmp_path: Path) -> None:
    data = make_data(load_folder(write_images(tmp_path, count=5)), **OPTIONS)

    def batches(workers: int, global_seed: int) -> list[SampleBatch]:
        torch.manual_seed(global_seed)
        sampler = StepSampler(
            [np.arange(5)], 2, accumulation=2, process=(0, 1), steps=range(3), seed=0
        )
        return list(
            DataLoader(data, batch_sampler=sampler, collate_fn=collate, num_workers=workers)
        )

    alone, shared = batches(0, 0), batches(2, 1)
    assert len(alone) == len(shared) == 6
    for a, b in zip(alone, shared, strict=True):
        assert_same(a, b)
