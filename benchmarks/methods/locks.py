"""Several processes share one list of runs: each holds the lock of the run it works on."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class BusyError(Exception):
    """Another process that is alive holds the lock."""


@contextmanager
def lock(path: Path, *, wait: bool = False, poll_seconds: float = 1.0) -> Iterator[int]:
    """Holds `path` inside the block and yields its file descriptor; the file names the owner and
    stays behind.

    The kernel drops the lock with its last owner, so that of a dead process is taken over without
    any judgement about its age. A subprocess that gets the descriptor (`pass_fds`) owns the lock
    too: when only its parent is killed, the run is still in progress. Raises BusyError when the
    lock is taken, unless `wait`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not wait:
                    raise BusyError(
                        f"{path} is held by process {path.read_text().strip() or 'unknown'}"
                    ) from None
                time.sleep(poll_seconds)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)
