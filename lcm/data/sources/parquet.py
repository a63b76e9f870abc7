"""Parquet files on this machine, with a column of images and one of captions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from lcm.data.config import DataConfig
from lcm.data.dropped import NO_ROWS, leave_out
from lcm.data.records import Record
from lcm.data.sources.base import Source
from lcm.data.sources.files import find_files
from lcm.data.sources.tables import library, read_table
from lcm.system.text import plain


def read_parquet_files(where: str, config: DataConfig, dropped: Counter[str]) -> Iterator[Record]:
    """The rows of every file in turn, named file[row]; files that rows name must lie below the
    folder of their parquet file.
    """
    datasets = library("parquet_files")
    from pyarrow import parquet

    base, files = find_files("parquet_files", where, ".parquet", dropped)
    for path in files:
        name = path.relative_to(base).as_posix()
        try:
            if parquet.read_metadata(path).num_rows == 0:  # which `datasets` cannot read
                leave_out(dropped, name, NO_ROWS)
                continue
            table: Any = datasets.Dataset.from_parquet(str(path), cache_dir=config.cache_dir)
        except Exception as error:
            raise ValueError(
                f"parquet_files: {path} could not be read ({plain(error.__cause__ or error, 500)}"
                "); download it again or leave it out"
            ) from error
        yield from read_table(
            table, name, config, dropped, flag="parquet_files", roots=(path.parent.resolve(),)
        )


PARQUET_FILES = Source(
    read_parquet_files, add_captions="their column {} is empty; pass --caption_column"
)
