"""Rows of a table that `datasets` holds, as records."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcm.data.records import NO_CAPTION, Record, as_captions

if TYPE_CHECKING:
    from lcm.data.config import DataConfig


def read_table(
    table: Any, name: str, config: DataConfig, dropped: Counter[str], *, flag: str, roots: tuple[Path, ...]
) -> Iterator[Record]:
    """One record `name`[row] for every row with a caption; files that rows name must lie below one of `roots`.

    Raises ValueError that names `flag` when a column is missing or holds no images.
    """
    import datasets

    for column, its_flag in ((config.image_column, "image_column"), (config.caption_column, "caption_column")):
        if column not in table.column_names:
            raise ValueError(
                f"{flag}: {name} has no column {column!r}; its columns are {', '.join(table.column_names)}; pass --{its_flag}"
            )
    try:
        rows = table.cast_column(config.image_column, datasets.Image(decode=False)).select_columns([config.image_column])
    except Exception as error:
        raise ValueError(
            f"{flag}: column {config.image_column!r} of {name} holds no images ({error}); pass --image_column"
        ) from error
    for i, value in enumerate(table[config.caption_column]):
        captions = as_captions(value)
        if captions:
            read = partial(read_cell, rows, config.image_column, i, roots)
            yield Record(f"{name}[{i}]", captions, read, stamp=f"{table._fingerprint}[{i}]")
        else:
            dropped[NO_CAPTION] += 1


def read_cell(rows: Any, column: str, index: int, roots: tuple[Path, ...]) -> io.BytesIO | Path:
    """The picture's bytes, or its file below one of `roots`. Raises ValueError for any other: a table may name all of a disk."""
    cell = rows[index][column]
    if cell is None or (cell["bytes"] is None and cell["path"] is None):
        raise ValueError("its cell is empty")
    if cell["bytes"] is not None:
        return io.BytesIO(cell["bytes"])
    for root in roots:
        path = (root / cell["path"]).resolve()
        if path.is_relative_to(root):
            return path
    raise ValueError(
        f"its file {cell['path']} is not below {' or '.join(map(str, roots))}; keep the images there, or pass their folder as "
        "--train_data_dir"
    )
