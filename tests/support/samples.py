"""Pictures with captions, written as every source can hold them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from lcm.data.records import Record
from tests.support.pictures import COLORS, encoded, plain

TEXTS = ["zero", "one", "two"]


STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write_rows(path: Path, images: Any, texts: Any = TEXTS, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": images, "text": texts, **columns}), path)
    return path


@dataclass(frozen=True)
class Example:
    """A sample as every source can hold it: the name of its file, the bytes of its picture, its
    captions.
    """

    name: str
    data: bytes
    captions: tuple[str, ...]


def write_folder(folder: Path, examples: list[Example]) -> str:
    for example in examples:
        (folder / example.name).parent.mkdir(parents=True, exist_ok=True)
        (folder / example.name).write_bytes(example.data)
    rows = [
        json.dumps({"file_name": example.name, "text": example.captions}) for example in examples
    ]
    (folder / "metadata.jsonl").write_text("\n".join(rows))
    return str(folder)


def table_of(examples: list[Example]) -> datasets.Dataset:
    cells = [{"bytes": example.data, "path": None} for example in examples]
    table = datasets.Dataset.from_dict(
        {"image": cells, "text": [list(example.captions) for example in examples]}
    )
    return table.cast_column("image", datasets.Image())


def write_parquet(folder: Path, examples: list[Example]) -> str:
    table_of(examples).to_parquet(folder / "rows.parquet")
    return str(folder / "rows.parquet")


def write_members(
    path: Path, members: list[tuple[str, bytes]], kind: int = tarfile.PAX_FORMAT
) -> Path:
    with tarfile.open(path, "w", format=kind) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


THREE = [
    Example(f"{i}.png", encoded(plain(color)), (f"one {i}", f"two {i}"))
    for i, color in enumerate(COLORS)
]


def captions_of(records: Sequence[Record]) -> dict[str, tuple[str, ...]]:
    """The captions by key, in the order of the records."""
    return {record.key: record.captions for record in records}
