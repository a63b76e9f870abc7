"""SHA256SUMS: the sums of a folder's files beside them, as `sha256sum --check` reads them. A bit
that a disk has turned is noticed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from lcm.system.paths import is_regular

SUMS_NAME = "SHA256SUMS"
LINE = re.compile(r"([0-9a-f]{64})  (\S[^\n]*)")


def sum_of(path: Path) -> str:
    """64 hexadecimal digits; a second for a GB or two."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sums_text(folder: Path, files: Iterable[Path]) -> str:
    """What SHA256SUMS of `folder` says of these files in it."""
    return "".join(f"{sum_of(path)}  {path.relative_to(folder).as_posix()}\n" for path in files)


def read_sums(folder: Path) -> dict[str, str] | None:
    """The sums by name; None where there are none, as in what former versions wrote. Raises
    ValueError for a file that is no list of sums.
    """
    path = folder / SUMS_NAME
    if not path.exists() and not path.is_symlink():
        return None
    if not is_regular(path):
        raise ValueError(f"{SUMS_NAME} is no file")
    text = path.read_text(encoding="utf-8", errors="replace")
    found = [LINE.fullmatch(line) for line in text.splitlines()]
    if not text.endswith("\n") or None in found:
        raise ValueError(f"{SUMS_NAME} is cut short or overwritten")
    return {match[2]: match[1] for match in found if match}


def first_changed(folder: Path, names: Iterable[str]) -> str | None:
    """What is wrong with the first file that is not as it was written, in words; None where all
    are, or nothing says how they were. `names` are those that must have a sum where any has.
    """
    try:
        sums = read_sums(folder)
        if sums is not None and not set(names) <= sums.keys():
            return f"{SUMS_NAME} is cut short or overwritten"
        for name, known in (sums or {}).items():
            path = folder / name
            if not is_regular(path):
                return f"{name} is missing"
            if path.stat().st_size == 0:
                return f"{name} is empty"
            if sum_of(path) != known:
                return f"{name} is not what was written: its SHA-256 is another"
    except (ValueError, OSError) as error:
        return str(error)
    return None
