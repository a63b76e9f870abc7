"""A data set of the hub, or of a local folder, row by row in its order, as `datasets` streams it:
nothing is stored.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lcm.data.captions import BadTextError, as_captions
from lcm.data.config import DataConfig
from lcm.data.records import Record
from lcm.data.sources.dataset import check_place, choose_split, is_saved
from lcm.data.sources.tables import check_columns, content_of, library
from lcm.system.secrets import one_line

FLAG = "dataset_name"


class Stream:
    """The rows of `where`, named as those of `read_dataset` are. Of a data set on the hub,
    `revision` is the commit to read.

    `starts`, the number of the first row in those shards that were opened, lets it begin in the
    middle without all before.
    """

    def __init__(self, where: str, config: DataConfig) -> None:
        self.where, self.config = where, config
        self.revision: str | None = None
        self.starts: dict[int, int] = {}

    @property
    def facts(self) -> dict[str, Any]:
        """The flags that its rows depend on, besides the version of the data."""
        names = (FLAG, "dataset_config_name", "image_column", "caption_column")
        return {name: getattr(self.config, name) for name in names}

    @property
    def is_local(self) -> bool:
        return Path(self.where).exists()

    def key(self, number: int) -> str:
        """The key of the record of a row."""
        return f"{self.where}[{number}]"

    @cached_property
    def version(self) -> str:
        """The commit on the hub, or what changes when a file of a local folder does. Raises
        ValueError when there is nothing.
        """
        check_place(self.where)
        if is_saved(self.where):
            return str(self._loaded._fingerprint)
        if str(self._builder.base_path).startswith("hf://"):
            return str(self._builder.hash)
        files = {
            str(split): [list(names), names.origin_metadata]
            for split, names in self._builder.config.data_files.items()
        }
        return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:32]

    def records(self, start: int = 0) -> Iterator[Record]:
        """One for every row from `start` on, also for those without a caption.

        Raises ConnectionError, saying what to do, where reading fails.
        """
        table, roots = self._table, (Path(self.where).resolve(),) if self.is_local else ()
        first, number = max(
            ((shard, row) for shard, row in self.starts.items() if row <= start), default=(0, 0)
        )
        try:
            for shard in range(first, table.num_shards):
                self.starts[shard] = number
                for row in table.shard(num_shards=table.num_shards, index=shard):
                    if number >= start:
                        read = Held(row[self.config.image_column], roots, self.where)
                        captions, flaw = self.captions(row)
                        yield Record(self.key(number), captions, read, flaw=flaw)
                    number += 1
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{FLAG}: {self.where} has a text that is not UTF-8 in row {number} or soon behind "
                f"it ({error.reason}); write the data set anew"
            ) from error
        except Exception as error:
            raise broken(self.where, f"from row {number} on", error) from error

    def captions(self, row: Any) -> tuple[tuple[str, ...], str]:
        """The captions of a row, and why they cannot be read, nothing where they can."""
        try:
            return as_captions(row[self.config.caption_column]), ""
        except BadTextError as error:
            return (), f"its caption {error}"

    @cached_property
    def _builder(self) -> Any:
        datasets, config = library(FLAG), self.config
        with naming(self.where):
            return datasets.load_dataset_builder(
                self.where,
                config.dataset_config_name,
                cache_dir=config.cache_dir,
                revision=self.revision,
            )

    @cached_property
    def _loaded(self) -> Any:
        """The split for training."""
        datasets = library(FLAG)
        with naming(self.where):
            if is_saved(self.where):
                return choose_split(datasets.load_from_disk(self.where), self.where)
            return choose_split(self._builder.as_streaming_dataset(), self.where)

    @cached_property
    def _table(self) -> Any:
        """The columns of images, not decoded, and captions."""
        datasets, config, table = library(FLAG), self.config, self._loaded
        with naming(self.where):
            table = table.to_iterable_dataset() if is_saved(self.where) else table
            table = table if table.features is not None else table._resolve_features()
        empty = datasets.Dataset.from_dict(
            {name: [] for name in table.features}, features=table.features
        )
        check_columns(empty, self.where, config, flag=FLAG)
        table = table.cast_column(config.image_column, datasets.Image(decode=False))
        return table.select_columns([config.image_column, config.caption_column])


@dataclass
class Held:
    """The encoded picture of a cell, fetched when it is first asked for and then held in memory."""

    cell: Any
    roots: tuple[Path, ...]
    where: str
    content: bytes | None = None

    def __call__(self) -> io.BytesIO:
        """Raises ValueError for an empty cell or a file that is no part of the data set,
        ConnectionError where reading fails.
        """
        if self.content is None:
            try:
                source = content_of(self.cell, self.roots, self.where)
            except ConnectionError as error:
                raise broken(self.where, "on", error) from error
            self.content = source.read_bytes() if isinstance(source, Path) else source.getvalue()
            self.cell = None
        return io.BytesIO(self.content)


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Makes what goes wrong inside the block one line that names the data set."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{FLAG}: {where} could not be loaded: {one_line(error)}") from error


def broken(where: str, place: str, error: Exception) -> ConnectionError:
    """An error that `datasets` gave up at after its retries, with what to do about it."""
    return ConnectionError(
        f"{FLAG}: {where} could not be read {place} ({type(error).__name__}: "
        f"{one_line(error)}); what was read is kept, and the same command goes on"
    )
