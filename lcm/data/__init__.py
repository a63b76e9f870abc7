"""From images and captions on disk to batches whose random numbers depend on (seed, epoch, sample) alone."""

from __future__ import annotations

from lcm.data.batches import SampleBatch, StepSampler, TrainDataset, collate
from lcm.data.sources import DataConfig, Record, load_records

__all__ = ["DataConfig", "Record", "SampleBatch", "StepSampler", "TrainDataset", "collate", "load_records"]
