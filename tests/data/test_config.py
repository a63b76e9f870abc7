"""Flags of the data that contradict each other."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from lcm.data.config import CacheConfig, DataConfig, SampleConfig, check_data


@pytest.mark.parametrize(
    "config",
    [DataConfig(), DataConfig(train_data_dir="x", dataset_name="y")],
    ids=["neither", "both"],
)
def test_exactly_one_source_is_asked_for(config: DataConfig) -> None:
    with pytest.raises(ValueError, match=r"--train_data_dir.*--dataset_name"):
        check_data(config, SampleConfig(), CacheConfig())


def sections(**flags: Any) -> tuple[DataConfig, SampleConfig, CacheConfig]:
    """The sections of the data that these flags make."""
    data, samples, cache = (
        {f.name: flags[f.name] for f in dataclasses.fields(kind) if f.name in flags}
        for kind in (DataConfig, SampleConfig, CacheConfig)
    )
    assert len(data) + len(samples) + len(cache) == len(flags)
    return DataConfig(**data), SampleConfig(**samples), CacheConfig(**cache)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({}, r"--train_data_dir.*--dataset_name.*--prompts_file"),
        (
            {"prompts_file": "x", "train_data_dir": "y"},
            r"exactly one of --train_data_dir.*--dataset_name.*--prompts_file",
        ),
        (
            {"prompts_file": "x", "dataset_name": "y"},
            r"exactly one of --train_data_dir.*--dataset_name.*--prompts_file",
        ),
        ({"train_data_dir": "x", "dataset_name": "y", "prompts_file": "z"}, r"exactly one of"),
        (
            {"train_data_dir": "x", "trajectories_per_prompt": 2},
            r"trajectories_per_prompt has no effect without --prompts_file",
        ),
        (
            {"dataset_name": "x", "trajectory_dir": "y"},
            r"trajectory_dir has no effect without --prompts_file",
        ),
        (
            {"prompts_file": "x", "trajectories_per_prompt": 0},
            r"trajectories_per_prompt must be positive and at most 10000; got 0",
        ),
        (
            {"prompts_file": "x", "random_flip": True},
            r"random_flip has no effect with --prompts_file",
        ),
        (
            {"prompts_file": "x", "center_crop": True},
            r"center_crop has no effect with --prompts_file",
        ),
    ],
    ids=str,
)
def test_flags_that_contradict_each_other_are_refused(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_data(*sections(**flags))


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"trajectories_per_prompt": 4, "trajectory_dir": "y"},
        {"max_train_samples": 2},
        {"proportion_empty_prompts": 0.1},
    ],
    ids=str,
)
def test_flags_that_go_with_prompts_are_accepted(flags: dict[str, Any]) -> None:
    check_data(*sections(prompts_file="x", **flags))
