"""Paths that other people's files name."""

from __future__ import annotations

import stat
from pathlib import Path


def is_within(path: Path, folder: Path) -> bool:
    """Whether a file or folder lies below `folder` once all links are followed; False for one that
    does not exist, or that goes round in a circle of links.
    """
    try:
        return path.resolve(strict=True).is_relative_to(folder.resolve())
    except (OSError, RuntimeError):
        return False


def is_regular(path: Path) -> bool:
    """Whether the path is a file with an end: no pipe, device or socket, which may never end."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def obstacle(folder: Path) -> str | None:
    """What is in the way of a folder that is there or can be made, in words; None if nothing is."""
    for path in (folder, *folder.parents):
        if path.is_dir():
            return None
        if path.is_symlink() and not path.exists():
            return f"{path} is a link to {path.readlink()}, which is not there"
        if path.exists():
            return f"{path} is no folder"
    return None
