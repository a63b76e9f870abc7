"""Sources of training data: one file each, one line in the table."""

from __future__ import annotations

from lcm.data.sources.base import Source
from lcm.data.sources.dataset import HUB_DATASET
from lcm.data.sources.folder import FOLDER
from lcm.data.sources.parquet import PARQUET_FILES
from lcm.data.sources.prompts import PROMPTS
from lcm.data.sources.webdataset import WEBDATASET

SOURCES: dict[str, Source] = {
    "train_data_dir": FOLDER,
    "dataset_name": HUB_DATASET,
    "parquet_files": PARQUET_FILES,
    "webdataset": WEBDATASET,
    "prompts_file": PROMPTS,
}
"""Field of DataConfig -> what it reads."""
