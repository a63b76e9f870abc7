"""What a user has changed in a text that this toolkit wrote, kept where it is written again."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher


def with_edits(found: str, ours: str, theirs: str) -> tuple[str, list[str]]:
    """`theirs` with the changes that lead from `ours` to `found`, line by line, and the lines that
    these brought. `ours` and `theirs` are one text for two readers, and have equally many lines.
    """
    mine, edited, shown = (text.split("\n") for text in (ours, found, theirs))
    assert len(mine) == len(shown)
    lines: list[str] = []
    changed: list[str] = []
    matcher = SequenceMatcher(None, mine, edited, autojunk=False)
    for kind, start, end, first, last in matcher.get_opcodes():
        lines += shown[start:end] if kind == "equal" else edited[first:last]
        changed += [] if kind == "equal" else edited[first:last]
    return "\n".join(lines), changed


def check_no_paths(lines: Sequence[str], paths: Sequence[str], where: str) -> None:
    """Raises ValueError for a line that names one of these paths of this machine."""
    for line in lines:
        for path in paths:
            if len(path) > 1 and path in line:
                raise ValueError(
                    f"{where}: a line that was changed names {path} of this machine "
                    f"({line.strip()}); write it as others are to read it"
                )
