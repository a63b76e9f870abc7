"""A data set of the hub, or a local folder that `datasets` reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub.constants import HF_HUB_CACHE

from lcm.data.config import DataConfig
from lcm.data.dropped import ENDLESS, Dropped
from lcm.data.records import Record
from lcm.data.sources.base import Source
from lcm.data.sources.tables import library, read_table
from lcm.data.sources.walk import is_picture, real_path, walk
from lcm.system.paths import is_endless, is_folder
from lcm.system.secrets import one_line

TEXTS = (".txt", ".json", ".jsonl", ".csv", ".tsv", ".xml")
"""Ends of names of files whose content `datasets` takes for texts."""


def read_dataset(where: str, config: DataConfig, dropped: Counter[str]) -> Iterator[Record]:
    """The train split (or the only split) of anything `datasets` loads."""
    datasets = library("dataset_name")
    check_place(where)
    try:
        if is_saved(where):
            loaded: Any = datasets.load_from_disk(where)
        else:
            loaded = datasets.load_dataset(
                where, config.dataset_config_name, cache_dir=config.cache_dir
            )
    except Exception as error:
        raise ValueError(f"dataset_name: {where} could not be loaded: {one_line(error)}") from error
    loaded = choose_split(loaded, where)
    # where those of the hub are
    caches = (
        config.cache_dir or datasets.config.HF_DATASETS_CACHE,
        HF_HUB_CACHE,
    )
    roots = tuple(Path(root).resolve() for root in ([where] if Path(where).is_dir() else caches))
    yield from read_table(loaded, where, config, dropped, flag="dataset_name", roots=roots)


def check_place(where: str) -> None:
    """Raises ValueError for a local folder with what `datasets` would wait for, a pipe or a device,
    or would read though it lies elsewhere, a text behind a link.
    """
    folder = Path(where)
    if is_endless(folder):
        raise ValueError(f"dataset_name: {where} is a pipe or a device; pass a folder or a name")
    if not is_folder(folder):
        return
    dropped = Dropped()
    found = walk(folder, dropped)
    if endless := dropped.named.get(ENDLESS):
        raise ValueError(
            f"dataset_name: {folder / endless[0].file} is a pipe or a device; remove it"
        )
    pictures = [path for path in found.files if is_picture(path)]
    for path in found.files:
        if path.suffix.lower() in TEXTS and not found.may_read(path, pictures):
            raise ValueError(
                f"dataset_name: {path} is a link to {real_path(path)}, a text outside of the data "
                "set; copy it there"
            )


def is_saved(where: str) -> bool:
    """Whether it is what `save_to_disk` writes."""
    return Path(where, "state.json").is_file() or Path(where, "dataset_dict.json").is_file()


def choose_split(loaded: Any, where: str) -> Any:
    """Raises ValueError when there are several splits and none is for training."""
    if not isinstance(loaded, dict):
        return loaded
    if "train" not in loaded and len(loaded) != 1:
        raise ValueError(f"dataset_name: {where} has no train split, only {', '.join(loaded)}")
    return loaded["train"] if "train" in loaded else next(iter(loaded.values()))


HUB_DATASET = Source(read_dataset, add_captions="its column {} is empty; pass --caption_column")
