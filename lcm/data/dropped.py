"""What was left out: how many by each reason, and which."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lcm.data.formats import IMAGE_FORMATS
from lcm.system.text import plain

NO_CAPTION = "without a caption"
NO_IMAGE = "without an image"
OTHER_FORMAT = f"in another format than {', '.join(IMAGE_FORMATS)}"
BAD_NAME = "with a name that is not UTF-8"
BAD_TEXT = "with captions that are not UTF-8"
LINKED_OUT = "with captions behind a link that leads elsewhere"
NAMED_TWICE = "with two files of captions of one name"
MISSING = "listed in the metadata but missing"
NOT_MET = "listed in the metadata but hidden or in a folder that is not read"
NO_FILE = "that are links to nothing"
ENDLESS = "that are pipes or devices"
NO_FOLDER = "folders that cannot be read"
READ_ALREADY = "folders that are read under another name, or lie above"
COMPRESSED = "in a format that is not read"
NO_ROWS = "without rows"
"""Reasons for leaving something out."""

HIDDEN = "hidden"
"""Why pictures are passed over that nobody sees: they are named, and not counted as samples."""

LISTED = 1000
"""So many of each reason are listed by name, the first ones; all are counted."""

SHOWN = 5
"""So many of each reason are named in the log."""

MOST_HINTS, LONGEST_NAME = 10, 1000


@dataclass(frozen=True)
class LeftOut:
    """What was left out: its name below the data, the reason, and what is known to be behind it."""

    file: str
    reason: str
    why: str = ""

    def __str__(self) -> str:
        return plain(self.file, 100) + (f" ({plain(self.why, 300)})" if self.why else "")


class Dropped(Counter[str]):
    """How many were left out by reason, and the first `LISTED` of each by name.

    `hints` is what may be meant for captions and is not read: it is told where none is found.
    """

    def __init__(self, counts: Mapping[str, int] | None = None) -> None:
        super().__init__(counts or {})
        self.named: dict[str, list[LeftOut]] = {}
        self.hidden = 0
        self.hints: list[str] = []

    def note(self, left_out: LeftOut) -> None:
        """Lists it by name, and does not count it."""
        listed = self.named.setdefault(left_out.reason, [])
        if len(listed) < LISTED:
            listed.append(left_out)

    def left_out(self) -> list[LeftOut]:
        """All that are listed, by reason."""
        return [one for _, listed in sorted(self.named.items()) for one in listed]

    def lines(self) -> Iterator[str]:
        """Lines for the log: the first few of each reason."""
        for reason, listed in sorted(self.named.items()):
            total = self.hidden if reason == HIDDEN else self[reason]
            shown, told = [], set()
            for one in listed[:SHOWN]:
                shown.append(str(one) if one.why not in told else plain(one.file, 100))
                told.add(one.why)
            rest = f" and {total - len(shown)} more" if total > len(shown) else ""
            yield f"{reason}: {', '.join(shown)}{rest}"

    def first(self) -> str:
        """The first that was left out, in words; "" where none is known by name."""
        return next((str(one) for one in self.left_out() if one.reason != HIDDEN), "")


def example(dropped: Counter[str]) -> str:
    """The first that was left out, to end a sentence with; "" where none is known by name."""
    first = dropped.first() if isinstance(dropped, Dropped) else ""
    return f"; left out is {first}" if first else ""


def leave_out(dropped: Counter[str], file: str, reason: str, why: str = "") -> None:
    """Counts something as left out, and lists its name where names are kept."""
    dropped[reason] += 1
    if isinstance(dropped, Dropped):
        dropped.note(LeftOut(short(file), reason, short(why)))


def pass_over(dropped: Counter[str], file: str) -> None:
    """Lists a hidden picture, which is no sample."""
    if isinstance(dropped, Dropped):
        dropped.hidden += 1
        dropped.note(LeftOut(short(file), HIDDEN))


def hint(dropped: Counter[str], text: str) -> None:
    """Keeps what to say where no caption is found."""
    if isinstance(dropped, Dropped) and text not in dropped.hints[:MOST_HINTS]:
        dropped.hints = [*dropped.hints, text][:MOST_HINTS]


def short(text: str) -> str:
    half = LONGEST_NAME // 2
    return text if len(text) <= LONGEST_NAME else f"{text[:half]}...{text[-half:]}"
