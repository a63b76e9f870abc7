"""One command per output folder, and per output file: a launcher may return before what it started
has ended, and the command be repeated at once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from lcm.system.atomic import replacing
from lcm.system.paths import obstacle

logger = logging.getLogger(__name__)

LOCK_NAME = ".lock"
"""The lock lies in the folder that it guards, so that all who can write there see it."""
AT_ONCE, PATIENCE = 0.1, 60.0
"""Seconds for which an earlier command is waited for: without a word, and then in all. It may be
saving its last step.
"""


@contextmanager
def alone_in(folder: Path, flag: str = "output_dir") -> Iterator[None]:
    """Holds the folder of this flag, which is made, against other commands inside the block.

    The system drops the lock with the process, however it ends. Folders that were made here and in
    which nothing was written are gone afterwards. Raises ValueError when another command keeps the
    folder, or it cannot be written.
    """
    with holding(folder / LOCK_NAME, f"working in {folder}", flag):
        yield


@contextmanager
def replacing_alone(path: Path, flag: str = "output") -> Iterator[Path]:
    """What `replacing` does, for a file or folder that two commands may be told to write. Raises
    ValueError when another one is writing it.
    """
    with (
        holding(path.with_name(f".{path.name}{LOCK_NAME}"), f"writing {path}", flag),
        replacing(path) as partial,
    ):
        yield partial


@contextmanager
def holding(place: Path, work: str, flag: str) -> Iterator[None]:
    """Holds the lock file at `place` inside the block; `work` is what another holder does."""
    made = [path for path in place.parents if not path.exists()]
    lock = take(place, work, flag)
    try:
        yield
    finally:
        with suppress(OSError):  # on Windows what is open cannot be removed, and its lock does it
            place.unlink()
        lock.release()
        with suppress(OSError):  # which is refused where something was written
            for path in made:
                path.rmdir()


def take(place: Path, work: str, flag: str) -> FileLock:
    """The lock, held; says so where it has to be waited for."""
    if (what := obstacle(place.parent)) is not None:
        raise ValueError(f"{flag}: {what}; move it away, or choose another folder")
    try:
        return hold(place, flag, AT_ONCE)
    except Timeout:
        logger.warning("waiting for another command, which is %s", work)
    try:
        return hold(place, flag, PATIENCE)
    except Timeout as error:
        raise ValueError(
            f"{flag}: another command is {work}; wait until it has ended, or pass another --{flag}"
        ) from error


def hold(place: Path, flag: str, patience: float) -> FileLock:
    """The lock, held within so many seconds. Raises Timeout, or ValueError where its folder cannot
    be written.
    """
    while True:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(place)
            if held(lock, patience):
                return lock
        except Timeout:
            raise
        except OSError as error:
            raise ValueError(
                f"{flag}: {place.parent} cannot be written ({error}); choose another folder"
            ) from error


def held(lock: FileLock, patience: float) -> bool:
    """Whether the lock was taken before its last holder removed it, or the folder, in leaving."""
    try:
        lock.acquire(timeout=patience)
    except FileNotFoundError:
        return False
    if Path(lock.lock_file).exists():
        return True
    lock.release()
    return False
