"""Writing that survives: what has its name is whole and on the disk; what a kill left behind is
found; a full disk is no crash.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from lcm.system.disk_space import FULL

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
    elif os.path.lexists(aside(path)):
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
            number = int(found[1])
            # on Windows it is one of Windows, from which the exception finds its own
            of_windows = (None, number) if os.name == "nt" else ()
            raise OSError(number, os.strerror(number), *of_windows) from error
        raise


def usual_mode(path: Path) -> int:
    """The permissions that a new file of this name gets from the umask and its folder: asked by
    making one, for the umask of a process cannot be read without changing it.
    """
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    mode = stat.S_IMODE(path.stat().st_mode)
    path.unlink()
    return mode


def set_mode(path: Path, mode: int) -> None:
    """Gives a file the permissions `mode`: safetensors makes its files for their owner alone."""
    if path.is_symlink() or not path.is_file() or stat.S_IMODE(path.stat().st_mode) == mode:
        return
    try:
        path.chmod(mode)
    except OSError as error:
        # a file system that knows no permissions, or keeps them for itself
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise


@contextmanager
def replacing(path: Path, owner: str = "") -> Iterator[Path]:
    """Yields where to write a file or folder: it gets the name `path` when the block ends well,
    else nothing of it stays. The folder that it goes into is made.

    All of it is synced before, since after a power loss the name could otherwise stand for an empty
    file, and is as readable for others as the umask says. One rename replaces a file; where a
    folder gets the name, what has it steps aside first, and `recover` puts it back should the
    process be killed in between. `owner` keeps apart those that may write the same file at the same
    time. The OSError of a full disk names the file.
    """
    partial = path.with_name(f".{path.name}{owner}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    remove(partial)
    try:
        mode = usual_mode(partial)
        with system_errors():
            yield partial
        for written in [*partial.rglob("*"), partial] if partial.is_dir() else [partial]:
            set_mode(written, mode)
            sync(written)
        if partial.is_dir() and os.path.lexists(path):
            remove(aside(path))
            path.rename(aside(path))
        partial.replace(path)
        sync(path.parent)
        remove(aside(path))
    except BaseException as error:
        remove(partial)
        put_back(path)
        if isinstance(error, OSError) and error.errno in FULL and error.filename is None:
            error.filename = str(path)
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
