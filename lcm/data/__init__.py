"""From images or prompts to batches whose random numbers depend on (seed, epoch, sample) alone."""

from __future__ import annotations

from lcm.data.batches import SampleBatch, StepSampler, TrainDataset, collate
from lcm.data.config import DataConfig
from lcm.data.records import LoadedData, Record
from lcm.data.report import DataReport, make_report, write_report
from lcm.data.shards import Trajectories
from lcm.data.sources import load_data, load_records
from lcm.data.trajectories import (
    TrajectorySpec,
    make_missing_shards,
    open_trajectories,
    trajectory_times,
)

__all__ = [
    "DataConfig",
    "DataReport",
    "LoadedData",
    "Record",
    "SampleBatch",
    "StepSampler",
    "TrainDataset",
    "Trajectories",
    "TrajectorySpec",
    "collate",
    "load_data",
    "load_records",
    "make_missing_shards",
    "make_report",
    "open_trajectories",
    "trajectory_times",
    "write_report",
]
