"""Rows of a table that `datasets` holds, as records."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from lcm.data.captions import BadTextError, as_captions
from lcm.data.config import DataConfig
from lcm.data.dropped import BAD_TEXT, NO_CAPTION, leave_out
from lcm.data.records import Record
from lcm.system.paths import is_endless
from lcm.system.secrets import one_line
from lcm.system.text import plain

ROWS_AT_ONCE = 1000


def library(flag: str) -> Any:
    """`datasets`, which nothing but some sources of data needs. Raises ValueError that names `flag`
    where it is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise ValueError(
            f"{flag}: datasets cannot be imported ({plain(error, 300)}); pip install datasets, or "
            "pass a folder of pictures as --train_data_dir"
        ) from error
    return datasets


def read_table(
    table: Any,
    name: str,
    config: DataConfig,
    dropped: Counter[str],
    *,
    flag: str,
    roots: tuple[Path, ...],
) -> Iterator[Record]:
    """One record `name`[row] for every row with a caption; files that rows name must lie below one
    of `roots`.

    Raises ValueError that names `flag` when a column is missing or holds no images.
    """
    rows = check_columns(table, name, config, flag=flag)
    for i, found in enumerate(cells_of(table, config.caption_column)):
        captions, why = (found, "") if isinstance(found, tuple) else ((), f"its caption {found}")
        if captions:
            read = partial(read_cell, rows, config.image_column, i, roots)
            yield Record(f"{name}[{i}]", captions, read, stamp=f"{table._fingerprint}[{i}]")
        else:
            leave_out(dropped, f"{name}[{i}]", BAD_TEXT if why else NO_CAPTION, why)


def cells_of(table: Any, column: str) -> Iterator[tuple[str, ...] | BadTextError]:
    """The captions of every row, or why they cannot be read."""
    cells = table.select_columns([column])
    for first in range(0, len(table), ROWS_AT_ONCE):
        numbers = range(first, min(first + ROWS_AT_ONCE, len(table)))
        try:
            values = cells[first : numbers.stop][column]
        except UnicodeDecodeError:  # of one of them; each alone tells which
            values = [cell_of(cells, column, number) for number in numbers]
        for value in values:
            try:
                yield value if isinstance(value, BadTextError) else as_captions(value)
            except BadTextError as error:
                yield error


def cell_of(cells: Any, column: str, number: int) -> Any:
    """What a row holds, an error where that is no text."""
    try:
        return cells[number][column]
    except UnicodeDecodeError as error:
        return BadTextError(f"is not UTF-8: {error.reason} at byte {error.start}")


def check_columns(table: Any, name: str, config: DataConfig, *, flag: str) -> Any:
    """The column of images, not decoded. Raises ValueError that names `flag` when a column is
    missing or holds no images.
    """
    datasets = library(flag)
    for column, its_flag in (
        (config.image_column, "image_column"),
        (config.caption_column, "caption_column"),
    ):
        if column not in table.column_names:
            raise ValueError(
                f"{flag}: {name} has no column {column!r}; its columns are "
                f"{', '.join(table.column_names)}; pass --{its_flag}"
            )
    try:
        return table.cast_column(config.image_column, datasets.Image(decode=False)).select_columns(
            [config.image_column]
        )
    except Exception as error:
        raise ValueError(
            f"{flag}: column {config.image_column!r} of {name} holds no images ({error}); pass "
            "--image_column"
        ) from error


def read_cell(rows: Any, column: str, index: int, roots: tuple[Path, ...]) -> io.BytesIO | Path:
    """The picture of a row, as `content_of` finds it."""
    return content_of(rows[index][column], roots)


def content_of(cell: Any, roots: tuple[Path, ...], repository: str = "") -> io.BytesIO | Path:
    """The picture's bytes, or its file below one of `roots` or in the data set `repository` of the
    hub, also in a zip.

    Raises ValueError for any other, as a table may name all of a disk, and ConnectionError where
    the hub cannot be read.
    """
    if cell is None or (cell["bytes"] is None and cell["path"] is None):
        raise ValueError("its cell is empty")
    if cell["bytes"] is not None:
        return io.BytesIO(cell["bytes"])
    if "://" in cell["path"]:
        return read_address(cell["path"], roots, repository)
    for root in roots:
        path = (root / cell["path"]).resolve()
        if path.is_relative_to(root):
            if is_endless(path):
                raise ValueError(f"its file {plain(cell['path'], 300)} is a pipe or a device")
            return path
    raise ValueError(
        f"its file {cell['path']} is not below {' or '.join(map(str, roots)) or 'the data set'}; "
        "keep the images there, or pass their folder as --train_data_dir"
    )


def read_address(address: str, roots: tuple[Path, ...], repository: str) -> io.BytesIO:
    """The bytes of a file that is not simply on this disk, as `content_of` finds it."""
    from datasets.utils.file_utils import xopen

    if not is_part(address, roots, repository):
        raise ValueError(
            f"its file {address} is no part of the data set; addresses in cells are not followed"
        )
    try:
        with xopen(address, "rb") as file:
            return io.BytesIO(file.read())
    except FileNotFoundError:
        raise
    except Exception as error:
        if "hf://" not in address:
            raise
        raise ConnectionError(f"{address}: {type(error).__name__}: {one_line(error)}") from error


def is_part(address: str, roots: tuple[Path, ...], repository: str) -> bool:
    """Whether a file, or one inside a zip, lies in the data set `repository` of the hub or below
    one of `roots`.
    """
    *inner, outer = address.split("::")
    if any(not hop.startswith("zip://") for hop in inner):
        return False
    if "://" in outer:
        return (
            outer.startswith(f"hf://datasets/{repository}@")
            and ".." not in PurePosixPath(outer).parts
        )
    path = Path(outer).resolve()
    return any(path.is_relative_to(root) for root in roots) and not is_endless(path)
