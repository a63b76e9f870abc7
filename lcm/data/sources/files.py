"""The files that a flag names: one file, a folder of them, a glob, or a brace pattern."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

BRACES = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{},]*(?:,[^{},]*)+))\}")


def expand_braces(pattern: str) -> Iterator[str]:
    """Every word of a pattern, as a shell has them: `{08..10}` is 08, 09, 10 and `{a,b}` is a,
    b.
    """
    match = BRACES.search(pattern)
    if match is None:
        yield pattern
        return
    first, last, words = match.groups()
    for choice in words.split(",") if words is not None else numbers_between(first, last):
        yield from expand_braces(pattern[: match.start()] + choice + pattern[match.end() :])


def numbers_between(first: str, last: str) -> Iterator[str]:
    """The numbers from one to the other in either direction, as wide as they are written where one
    begins with a zero.
    """
    is_padded = any(text.startswith("0") and len(text) > 1 for text in (first, last))
    width = max(len(first), len(last)) if is_padded else 0
    step = 1 if int(first) <= int(last) else -1
    yield from (f"{number:0{width}d}" for number in range(int(first), int(last) + step, step))


def find_files(flag: str, where: str, suffix: str) -> tuple[Path, list[Path]]:
    """Files in a fixed order, each once, and the folder that all of them lie below, to name samples
    from.

    Raises FileNotFoundError, naming `flag`, for every part of a pattern that matches nothing.
    """
    where = where.rstrip("/") or where
    if Path(where).is_file():
        return Path(where).parent, [Path(where)]
    if Path(where).is_dir():
        base, patterns = Path(where), [f"**/*{suffix}"]
    else:
        base = Path(re.split(r"[*?\[{]", where)[0] + "x").parent  # of the part without any pattern
        patterns = [str(Path(word).relative_to(base)) for word in expand_braces(where)]
    files: dict[Path, None] = {}
    for pattern in patterns:
        found = sorted(
            path for path in base.glob(pattern) if path.is_file() and not path.name.startswith(".")
        )
        if not found:
            raise FileNotFoundError(
                f"{flag}: there is no file {base / pattern}; pass a {suffix} file, a folder of "
                "them or a pattern"
            )
        files |= dict.fromkeys(found)
    return base, list(files)
