"""Journals: files of JSON lines, each with a check, that a run adds to and that later runs read.

Every run adds files of its own, so that runs need not wait for each other. A line that a kill left
torn, or that is damaged, counts as not written.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

Line = Sequence[Any]
"""What a line holds: values that JSON has."""


def check_of(line: Line) -> str:
    """8 hexadecimal digits, without which nobody would notice a damaged line."""
    return hashlib.sha256(json.dumps(line).encode()).hexdigest()[:8]


def read_lines(path: Path, unchecked: int | None = None) -> Iterator[list[Any]]:
    """The lines that are as they were written.

    Lines of `unchecked` values are taken as they are: earlier versions wrote some without a check.
    """
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            check, *line = json.loads(text)
        except (ValueError, TypeError, RecursionError):
            continue
        if check == check_of(line):
            yield line
        elif len(line) + 1 == unchecked:
            yield [check, *line]


def write_lines(file: TextIO, lines: Sequence[Line]) -> None:
    """Adds the lines to an open journal; they survive a kill of this process from then on."""
    file.writelines(json.dumps([check_of(line), *line]) + "\n" for line in lines)
    file.flush()


def append_lines(path: Path, lines: Sequence[Line]) -> None:
    """Adds the lines to a journal, there or not; once this returns they are on the disk itself."""
    with path.open("a", encoding="utf-8", newline="\n") as file:
        write_lines(file, lines)
        os.fsync(file.fileno())
