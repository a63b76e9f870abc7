"""Tar shards, and what is read of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lcm.data.config import DataConfig
from lcm.data.load import load_data
from lcm.data.loaded import LoadedData
from tests.support.pictures import encoded, plain
from tests.support.samples import THREE, write_members

PICTURE = THREE[0].data


def load_tar(tar: Path | str, **changes: Any) -> LoadedData:
    return load_data(DataConfig(webdataset=str(tar), **changes))


def shard(path: Path, count: int = 4) -> Path:
    """Samples `<i>.png` with the text `text <i>`, whose pictures are all different."""
    members = []
    for i in range(count):
        members += [
            (f"{i}.png", encoded(plain((i, 0, 0), size=(40, 30)))),
            (f"{i}.txt", f"text {i}".encode()),
        ]
    return write_members(path, members)
