"""metrics.jsonl: one line of numbers per logging interval and one per validation grid, without gaps
or repetitions after a resume.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lcm.outputs.folder import METRICS_NAME
from lcm.outputs.gauges import is_of_grid
from lcm.system.atomic import replacing, sync
from lcm.system.disk_space import FULL
from lcm.system.paths import write_text

logger = logging.getLogger(__name__)


def is_kept(line: str, step: int) -> bool:
    """Whether it is a whole line up to `step`: a kill may have cut the last one, a power loss have
    left it empty.
    """
    try:
        number = json.loads(line)["step"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return False
    return line.endswith("\n") and isinstance(number, int) and number <= step


def read_lines(path: Path) -> list[str]:
    """The lines with their ends, whole or not; none without the file."""
    if not path.exists():
        return []
    return path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)


def gaps_of(lines: list[str], step: int) -> list[tuple[int, int]]:
    """The first and the last update of every stretch up to `step` whose lines are gone: a line is
    written with every checkpoint, so the last one must be that of `step`, and between two that are
    whole nothing is missing unless something broken lies there.
    """
    gaps, last, is_broken = [], 0, False
    for line in lines:
        if not is_kept(line, sys.maxsize):
            is_broken = True
            continue
        number = json.loads(line)["step"]
        if number > step:
            break
        if is_broken and number > last + 1:
            gaps.append((last + 1, number - 1))
        last, is_broken = number, False
    return [*gaps, (last + 1, step)] if last < step else gaps


def read_metrics(output_dir: Path) -> list[dict[str, Any]]:
    """The whole lines that are there, in order of their steps."""
    return sorted(
        (
            json.loads(line)
            for line in read_lines(output_dir / METRICS_NAME)
            if is_kept(line, sys.maxsize)
        ),
        key=lambda line: line["step"],
    )


def read_updates(output_dir: Path) -> list[dict[str, Any]]:
    """The lines of updates alone, without those of the grids."""
    return [line for line in read_metrics(output_dir) if not is_of_grid(line)]


class MetricsLog:
    """The file, open to go on after `step`: lines after it, which an interrupted run wrote, will
    come again and are dropped.
    """

    def __init__(self, output_dir: Path, step: int) -> None:
        self.path = output_dir / METRICS_NAME
        self._waiting = ""
        lines = read_lines(self.path)
        kept = [line for line in lines if is_kept(line, step)]
        if gaps := gaps_of(lines, step):
            words = (f"{first} to {last}" if first < last else str(last) for first, last in gaps)
            logger.warning(
                "%s has no lines of the updates %s, which were lost or logged elsewhere; the run "
                "goes on without them",
                METRICS_NAME,
                ", ".join(words),
            )
        with replacing(self.path) as partial:
            write_text(partial, "".join(kept))

    def append(self, metrics: Mapping[str, Any]) -> None:
        """Writes a line; while the disk is full, lines wait here for the next one."""
        self._waiting += json.dumps(metrics) + "\n"
        size = self.path.stat().st_size
        try:
            with self.path.open("a", encoding="utf-8", newline="\n") as file:
                file.write(self._waiting)
        except OSError as error:
            os.truncate(self.path, size)  # a part of it may have been written
            if error.errno not in FULL:
                raise
            logger.warning("the disk is full: %s waits for room", METRICS_NAME)
            return
        self._waiting = ""

    def sync(self) -> None:
        """Returns once the lines are on the disk itself."""
        sync(self.path)
