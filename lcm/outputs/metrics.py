"""metrics.jsonl: one line of numbers per logging interval, without gaps or repetitions after a
resume.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from lcm.outputs.folder import METRICS_NAME
from lcm.system.atomic import replacing, sync
from lcm.system.disk_space import FULL

logger = logging.getLogger(__name__)


def is_kept(line: str, step: int) -> bool:
    """Whether it is a whole line up to `step`: a kill may have cut the last one, a power loss have
    left it empty.
    """
    try:
        return line.endswith("\n") and json.loads(line)["step"] <= step
    except (ValueError, TypeError, KeyError):
        return False


def read_metrics(output_dir: Path) -> list[dict[str, Any]]:
    """The whole lines that are there, in order of their steps."""
    path = output_dir / METRICS_NAME
    lines = path.read_text(errors="replace").splitlines(keepends=True) if path.exists() else []
    return sorted(
        (json.loads(line) for line in lines if is_kept(line, sys.maxsize)),
        key=lambda line: line["step"],
    )


class MetricsLog:
    """The file, open to go on after `step`: lines after it, which an interrupted run wrote, will
    come again and are dropped.
    """

    def __init__(self, output_dir: Path, step: int) -> None:
        self.path = output_dir / METRICS_NAME
        self._waiting = ""
        lines = (
            self.path.read_text(errors="replace").splitlines(keepends=True)
            if self.path.exists()
            else []
        )
        with replacing(self.path) as partial:
            partial.write_text("".join(line for line in lines if is_kept(line, step)))

    def append(self, metrics: dict[str, float | None]) -> None:
        """Writes a line; while the disk is full, lines wait here for the next one."""
        self._waiting += json.dumps(metrics) + "\n"
        size = self.path.stat().st_size
        try:
            with self.path.open("a") as file:
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
