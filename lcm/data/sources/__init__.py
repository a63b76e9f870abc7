"""Sources of training data: one file each, one line in the table."""

from __future__ import annotations

from lcm.data.sources.base import Source
from lcm.data.sources.dataset import HubDataset
from lcm.data.sources.folder import Folder
from lcm.data.sources.parquet import ParquetFiles
from lcm.data.sources.prompts import Prompts
from lcm.data.sources.webdataset import WebDataset

SOURCES: dict[str, Source] = {
    "train_data_dir": Folder(),
    "dataset_name": HubDataset(),
    "parquet_files": ParquetFiles(),
    "webdataset": WebDataset(),
    "prompts_file": Prompts(),
}
"""Field of DataConfig -> what it reads."""

__all__ = ["SOURCES", "Source"]
