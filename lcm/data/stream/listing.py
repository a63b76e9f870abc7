"""What is remembered of a stream: every row's captions, the hash and size of its picture, and
whether the stream has more.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

from lcm.data.journal import append_lines, read_lines
from lcm.data.pictures import Picture

HEADER, SHARD, END = "stream", "shard", "end"
"""The first values of lines that are of no row, and what the one after the last row holds."""


@dataclass(frozen=True)
class ListedRow:
    """One row as it was found: a sample, or the reason in `picture` for leaving it out."""

    captions: tuple[str, ...]
    picture: Picture


@dataclass
class Listing:
    """The first `rows` of the stream that `facts` name, all of them if it is `whole`, as they were
    in one `version` of the data, and `starts`, the number of the first row in those of its shards
    that were opened.

    In `folder` it is spread over files that each run adds for itself, so that runs need not wait
    for each other.
    """

    folder: Path
    facts: dict[str, Any]
    version: str = ""
    rows: list[ListedRow] = field(default_factory=list)
    starts: dict[int, int] = field(default_factory=dict)
    whole: bool = False
    _path: Path | None = None

    @property
    def pattern(self) -> str:
        """The pattern of the names of its files."""
        digest = hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode()).hexdigest()
        return f"stream-{digest[:16]}-*.jsonl"

    def read(self) -> None:
        """Takes in what earlier runs wrote of this version, of the newest if it has none. Lines
        that are damaged count as not written.
        """
        files = sorted(self.folder.glob(self.pattern), key=lambda path: path.stat().st_mtime_ns)
        contents = [lines_of(path) for path in files]
        for header, _ in reversed(contents):
            self.version = self.version or header
        found: dict[int, Any] = {}
        for header, lines in contents:
            if header == self.version:
                self.starts |= dict(content for number, content in lines if number == SHARD)
                found |= {number: content for number, content in lines if number != SHARD}
        while (content := found.get(len(self.rows))) is not None and content != END:
            captions, *picture = content
            self.rows.append(ListedRow(tuple(captions), Picture(*picture)))
        self.whole = found.get(len(self.rows)) == END

    def write(self, rows: Sequence[ListedRow], whole: bool) -> None:
        """Adds the next rows on the disk; in memory they have been added already."""
        first = len(self.rows) - len(rows)
        lines: list[Any] = [
            [SHARD, start] for start in self.starts.items() if first <= start[1] < len(self.rows)
        ]
        lines += [
            [number, [row.captions, *astuple(row.picture)]]
            for number, row in enumerate(rows, first)
        ]
        if whole:
            lines.append([len(self.rows), END])
        if self._path is None:
            self._path = self.folder / self.pattern.replace("*", uuid.uuid4().hex)
            lines.insert(0, [HEADER, {**self.facts, "version": self.version}])
        append_lines(self._path, lines)


def lines_of(path: Path) -> tuple[str, list[tuple[Any, Any]]]:
    """The version, "" when nothing can be read, and (number or SHARD, content) of every line."""
    version, lines = "", []
    for number, content in read_lines(path):
        if number == HEADER:
            version = content["version"]
        else:
            lines.append((number, content))
    return version, lines
