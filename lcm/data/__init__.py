"""From images or prompts to batches whose random numbers depend on (seed, epoch, sample) alone."""

from __future__ import annotations

from lcm.data.batches import SampleBatch, StepSampler, TrainDataset, collate
from lcm.data.config import DataConfig
from lcm.data.records import Record
from lcm.data.shards import Trajectories
from lcm.data.sources import load_records
from lcm.data.trajectories import (
    TrajectorySpec,
    make_missing_shards,
    open_trajectories,
    trajectory_times,
)

__all__ = [
    "DataConfig",
    "Record",
    "SampleBatch",
    "StepSampler",
    "TrainDataset",
    "Trajectories",
    "TrajectorySpec",
    "collate",
    "load_records",
    "make_missing_shards",
    "open_trajectories",
    "trajectory_times",
]
