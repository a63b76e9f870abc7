"""From images or prompts to batches whose random numbers depend on (seed, epoch, sample) alone."""

from __future__ import annotations

from lcm.data.batch import SampleBatch, collate
from lcm.data.config import DataConfig
from lcm.data.dataset import TrainDataset
from lcm.data.load import load_data, load_records
from lcm.data.loaded import LoadedData
from lcm.data.precomputed.shards import Trajectories
from lcm.data.precomputed.trajectories import (
    TrajectorySpec,
    make_missing_shards,
    open_trajectories,
    trajectory_times,
)
from lcm.data.records import Record
from lcm.data.report import DataReport, make_report, write_report
from lcm.data.sampler import StepSampler

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
