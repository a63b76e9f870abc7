"""Sources of training data: one file each, one line in the table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lcm.system.registry import Table

if TYPE_CHECKING:
    from lcm.data.sources.base import Source

SOURCES: Table[Source] = Table(
    "source of data",
    {
        "train_data_dir": "lcm.data.sources.folder:FOLDER",
        "dataset_name": "lcm.data.sources.dataset:HUB_DATASET",
        "parquet_files": "lcm.data.sources.parquet:PARQUET_FILES",
        "webdataset": "lcm.data.sources.webdataset:WEBDATASET",
        "prompts_file": "lcm.data.sources.prompts:PROMPTS",
    },
)
"""The field of DataConfig that chooses it -> the source. Those from outside are chosen by
--other_source.
"""
