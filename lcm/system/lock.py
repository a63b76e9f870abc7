"""One command per output folder: a launcher may return before what it started has ended, and the
command be repeated at once.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger(__name__)

PATIENCE = 60.0
"""Seconds for which an earlier command is waited for: it may be saving its last step."""


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Holds the folder, which need not be there yet, against the other commands on this machine
    inside the block.

    The kernel drops the lock with the process, however it ends. Raises ValueError when another
    command keeps it.
    """
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"lcm-{os.getuid()}-{name}.lock"
    handle = _take(path, folder)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _take(path: Path, folder: Path) -> int:
    """The descriptor that holds the lock file."""
    deadline, told = time.monotonic() + PATIENCE, False
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_current(handle, path):
                return handle
        except BlockingIOError:
            pass
        os.close(handle)
        if time.monotonic() > deadline:
            raise ValueError(
                f"output_dir: another command is working in {folder}; wait until it has ended, or "
                "pass another --output_dir"
            )
        if not told:
            logger.info("waiting for another command to leave %s", folder)
            told = True
        time.sleep(0.1)


def _is_current(handle: int, path: Path) -> bool:
    """Whether the lock file was not removed by its last holder just before it was locked."""
    try:
        return path.stat().st_ino == os.fstat(handle).st_ino
    except FileNotFoundError:
        return False
