"""Paths that other people's files name."""

from __future__ import annotations

import stat
from pathlib import Path

from lcm.system.text import is_utf8


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
    except (OSError, ValueError):  # no such file; a name that no file can have
        return False


def is_folder(path: Path) -> bool:
    """Whether there is a folder, through links too; False for a name that no folder can have."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def is_endless(path: Path) -> bool:
    """Whether there is something that is neither file nor folder, as a pipe or a device: to open it
    may wait, and to read it may never end.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def obstacle(folder: Path) -> str | None:
    """What is in the way of a folder that is there or can be made and written, in words; None if
    nothing is.
    """
    if not is_utf8(str(folder)):  # safetensors reads and writes no file there
        return f"the path {folder} is not UTF-8"
    for path in (folder, *folder.parents):
        # whether it is there comes first: another run may be making it between two questions
        if path.exists():
            return None if path.is_dir() else f"{path} is no folder"
        if path.is_symlink() and not path.exists():
            return f"{path} is a link to {path.readlink()}, which is not there"
    return None


def write_text(path: Path, text: str) -> None:
    """Writes a text as it is the same on every system: UTF-8, lines that end with one character."""
    path.write_text(text, encoding="utf-8", newline="\n")
