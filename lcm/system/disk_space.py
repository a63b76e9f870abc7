"""How much is free on a disk, and what a run needs of it."""

from __future__ import annotations

import errno
import logging
import math
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)


FULL = (errno.ENOSPC, errno.EDQUOT)
"""What the system answers when the disk, or the user's share of it, is full."""


def readable(nbytes: float) -> str:
    """A size for people: 512 bytes, 3.4 MiB, 118 GiB."""
    if nbytes < 1000:
        return f"{nbytes:.0f} bytes"
    power = min(4, int(math.log(nbytes / 1000 * 1024, 1024)))
    value = nbytes / 1024**power
    return f"{value:.{0 if value >= 100 else 1}f} {('', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"


def free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def nearest_existing(path: Path) -> Path:
    """The path or the closest folder above it that is there."""
    return next(place for place in (path, *path.absolute().parents) if place.exists())


@dataclass(frozen=True)
class Need:
    """Bytes that are going to be written below `folder`, as `what`; `fix` is what to do where they
    find no room.
    """

    folder: Path
    nbytes: int
    what: str
    fix: str


def shortages(needs: Iterable[Need]) -> list[str]:
    """What does not fit, one line for every file system: what lies on the same one shares its
    room.
    """
    places: dict[int, list[Need]] = {}
    for need in needs:
        places.setdefault(nearest_existing(need.folder).stat().st_dev, []).append(need)
    lines = []
    for together in places.values():
        needed = sum(need.nbytes for need in together)
        free = free_bytes(nearest_existing(together[0].folder))
        if needed > free:
            what = " and ".join(
                f"{need.what} in {need.folder} take {readable(need.nbytes)}"
                for need in together
                if need.nbytes
            )
            fixes = "; ".join(dict.fromkeys(need.fix for need in together if need.nbytes))
            lines.append(f"the disk has {readable(free)} free, and {what}: {fixes}")
    return lines


def warn_if_short(needs: Iterable[Need]) -> None:
    """Says so in the log, and goes on: room may be made in time."""
    for line in shortages(needs):
        logger.warning("%s", line)


def check_room(folder: Path, needed: int) -> None:
    """Raises OSError, as a write would half-way, when fewer than `needed` bytes are free."""
    if free_bytes(folder) < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def optional(what: str) -> Iterator[None]:
    """Inside the block a full disk costs `what` and a warning, not the run."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        logger.warning(
            "the disk is full: %s could not be written; the run goes on without it", what
        )
