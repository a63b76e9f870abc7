"""The same samples written for every source, and read by it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lcm.data.config import DataConfig
from lcm.data.load import load_data
from lcm.data.loaded import LoadedData
from lcm.data.sources import SOURCES
from tests.support.samples import Example, table_of, write_folder, write_members, write_parquet


def write_dataset(folder: Path, examples: list[Example]) -> str:
    table_of(examples).save_to_disk(folder / "saved")
    return str(folder / "saved")


def write_webdataset(folder: Path, examples: list[Example]) -> str:
    members = []
    for example in examples:
        stem = example.name.partition(".")[0]
        members += [
            (example.name, example.data),
            (f"{stem}.json", json.dumps({"text": example.captions}).encode()),
        ]
    return str(write_members(folder / "shard.tar", members))


def write_prompts(folder: Path, examples: list[Example]) -> str:
    (folder / "prompts.txt").write_text(
        "".join(f"{next(iter(example.captions), '')}\n" for example in examples)
    )
    return str(folder / "prompts.txt")


WRITERS: dict[str, Callable[[Path, list[Example]], str]] = {
    "train_data_dir": write_folder,
    "dataset_name": write_dataset,
    "parquet_files": write_parquet,
    "webdataset": write_webdataset,
    "prompts_file": write_prompts,
}


WITH_IMAGES = [flag for flag, source in SOURCES.items() if source.has_images]


def config_of(flag: str, folder: Path, examples: list[Example], **changes: Any) -> DataConfig:
    folder.mkdir(exist_ok=True, parents=True)
    return DataConfig(
        **{flag: WRITERS[flag](folder, examples), "cache_dir": str(folder / "cache"), **changes}
    )


def load_source(flag: str, folder: Path, examples: list[Example], **changes: Any) -> LoadedData:
    return load_data(config_of(flag, folder, examples, **changes))
