"""The files that a flag names: one file, a folder of them, a glob, or a brace pattern."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePath

from lcm.data.dropped import COMPRESSED, ENDLESS, example, leave_out
from lcm.data.sources.walk import is_hidden, walk
from lcm.system.paths import is_endless, is_folder, is_regular
from lcm.system.text import plain

BRACES = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{},]*(?:,[^{},]*)+))\}")

MOST_WORDS = 10**6
"""The most words that a brace pattern may stand for."""

NOT_READ = {
    ".tar": (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".zip"),
    ".parquet": (".arrow", ".feather", ".orc", ".parquet.gz", ".csv", ".jsonl"),
}
"""Ends of names of files that are met in a folder of such files, and may be meant for them."""


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


def check_count(flag: str, pattern: str) -> None:
    """Raises ValueError for braces that stand for more files than anybody has."""
    braces = list(BRACES.finditer(pattern))
    total = math.prod(
        words.count(",") + 1 if words is not None else abs(int(last[:18]) - int(first[:18])) + 1
        for first, last, words in (match.groups() for match in braces[:20])
    )
    if total > MOST_WORDS or len(braces) > 20:
        raise ValueError(
            f"{flag}: the braces of {plain(pattern, 100)} stand for more than {MOST_WORDS} files; "
            "pass the folder, or fewer at a time"
        )


def find_files(
    flag: str, where: str, suffix: str, dropped: Counter[str] | None = None
) -> tuple[Path, list[Path]]:
    """Files in a fixed order, each once, and the folder that all of them lie below, to name samples
    from. What is met and is no such file is left out by name.

    Raises FileNotFoundError, naming `flag`, for every part of a pattern that matches nothing, and
    ValueError for what is no file.
    """
    dropped = Counter() if dropped is None else dropped
    where = where.rstrip("/") or where
    if is_regular(Path(where)):
        return Path(where).parent, [Path(where)]
    if is_endless(Path(where)):
        raise ValueError(
            f"{flag}: {where} is no file but a pipe or a device; pass a {suffix} file, a folder of "
            "them or a pattern"
        )
    if is_folder(Path(where)):
        return Path(where), files_below(flag, Path(where), suffix, dropped)
    check_count(flag, where)
    base = Path(re.split(r"[*?\[{]", where)[0] + "x").parent  # of the part without any pattern
    files: dict[Path, None] = {}
    words: set[str] = set()
    for word in expand_braces(where):
        if word not in words:
            words.add(word)
            files |= dict.fromkeys(matches(flag, base, word, suffix, dropped))
    return base, list(files)


def matches(flag: str, base: Path, word: str, suffix: str, dropped: Counter[str]) -> list[Path]:
    """The files that a glob means. Raises FileNotFoundError where there is none."""
    pattern = str(Path(word).relative_to(base))
    try:
        is_glob = any(sign in pattern for sign in "*?[")
        found = sorted(base.glob(pattern)) if is_glob else [Path(word)]
    except ValueError as error:
        raise ValueError(
            f"{flag}: {plain(word, 500)} is no pattern ({error}); ** stands alone between slashes"
        ) from error
    seen = [path for path in found if not is_hidden(path.relative_to(base))]
    for path in seen:
        if is_endless(path):
            leave_out(dropped, path.relative_to(base).as_posix(), ENDLESS, "it may never end")
    files = [path for path in seen if is_regular(path)]
    if not files:
        raise no_file(flag, base / pattern, suffix, dropped)
    return files


def files_below(flag: str, folder: Path, suffix: str, dropped: Counter[str]) -> list[Path]:
    """The files of one kind below a folder. Raises FileNotFoundError where there is none."""

    def is_wanted(path: PurePath) -> bool:
        return path.suffix.lower() == suffix

    met = walk(folder, dropped, is_wanted).files
    for path in (path for path in met if path.name.lower().endswith(NOT_READ[suffix])):
        leave_out(dropped, path.relative_to(folder).as_posix(), COMPRESSED, "unpack or convert it")
    files = [path for path in met if is_wanted(path)]
    if not files:
        raise no_file(flag, folder / f"**/*{suffix}", suffix, dropped)
    return files


def no_file(flag: str, path: Path, suffix: str, dropped: Counter[str]) -> FileNotFoundError:
    return FileNotFoundError(
        f"{flag}: there is no file {plain(path, 500)}; pass a {suffix} file, a folder of them or a "
        f"pattern{example(dropped)}"
    )
