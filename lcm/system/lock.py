"""One command per output folder: a launcher may return before what it started has ended, and the
command be repeated at once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

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
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    lock = take(folder, flag)
    try:
        yield
    finally:
        with suppress(OSError):  # Windows keeps a file that is open, and none takes a full folder
            (folder / LOCK_NAME).unlink()
            for path in made:
                path.rmdir()
        lock.release()


def take(folder: Path, flag: str) -> FileLock:
    """The lock of a folder, held; says so where it has to be waited for."""
    try:
        return hold(folder, flag, AT_ONCE)
    except Timeout:
        logger.info("waiting for another command to leave %s", folder)
    try:
        return hold(folder, flag, PATIENCE)
    except Timeout as error:
        raise ValueError(
            f"{flag}: another command is working in {folder}; wait until it has ended, or pass "
            f"another --{flag}"
        ) from error


def hold(folder: Path, flag: str, patience: float) -> FileLock:
    """The lock of a folder, held within so many seconds. Raises Timeout, or ValueError where the
    folder cannot be written.
    """
    if (what := obstacle(folder)) is not None:
        raise ValueError(f"{flag}: {what}; move it away, or choose another folder")
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / LOCK_NAME)
            if held(lock, patience):
                return lock
        except Timeout:
            raise
        except OSError as error:
            raise ValueError(
                f"{flag}: {folder} cannot be written ({error}); choose another folder"
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
