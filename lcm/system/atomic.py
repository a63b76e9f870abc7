"""Writing that survives: what has its name is whole and on the disk; what a kill left behind is
found; a full disk is no crash.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

logger = logging.getLogger(__name__)


# --- whole or absent ------------------------------------------------------------------------------


def sync(path: Path) -> None:
    """Returns once a file's contents, or a folder's list of names, are on the disk itself."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folder
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # some network file systems cannot sync a folder
        if error.errno != errno.EINVAL or not path.is_dir():
            raise
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """A file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def aside(path: Path) -> Path:
    """The place where a folder stands while another takes its name."""
    return path.with_name(f".{path.name}.old")


def put_back(path: Path) -> None:
    """Ends an exchange that was cut short: the old folder gets its name again, unless the new one
    has it already.
    """
    if path.exists():
        remove(aside(path))
    elif aside(path).exists():
        aside(path).rename(path)


@contextmanager
def system_errors() -> Iterator[None]:
    """safetensors tells what the system answered in words; inside the block that is the OSError it
    was.
    """
    try:
        yield
    except SafetensorError as error:
        if found := re.search(r"\(os error (\d+)\)", str(error)):
            raise OSError(int(found[1]), os.strerror(int(found[1]))) from error
        raise


@contextmanager
def replacing(path: Path, owner: str = "") -> Iterator[Path]:
    """Yields where to write a file or folder: it gets the name `path` when the block ends well,
    else nothing of it stays.

    All of it is synced before, since after a power loss the name could otherwise stand for an empty
    file. One rename replaces a file; a folder that has the name steps aside first, and `recover`
    puts it back should the process be killed in between. `owner` keeps apart those that may write
    the same file at the same time.
    """
    partial = path.with_name(f".{path.name}{owner}.part")
    remove(partial)
    try:
        with system_errors():
            yield partial
        for written in [*partial.rglob("*"), partial] if partial.is_dir() else [partial]:
            sync(written)
        if path.is_dir():
            remove(aside(path))
            path.rename(aside(path))
        partial.replace(path)
        sync(path.parent)
        remove(aside(path))
    except BaseException:
        remove(partial)
        put_back(path)
        raise


def discard(folder: Path) -> None:
    """Removes a folder so that, killed half-way, it has lost its name first and `recover` removes
    the rest.
    """
    doomed = folder.with_name(f".{folder.name}.part")
    remove(doomed)
    folder.rename(doomed)
    remove(doomed)


def recover(folder: Path, names: Iterable[str]) -> None:
    """Clears up after a killed process: files and folders of these names (or patterns) that it was
    writing or replacing.
    """
    for name in names:
        for old in folder.glob(f".{name}.old"):
            put_back(folder / old.name[1 : -len(".old")])
        for partial in folder.glob(f".{name}.part"):
            remove(partial)


# --- room -----------------------------------------------------------------------------------------
