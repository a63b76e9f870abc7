"""Why a metric is not measured: for who gave the command, with the paths that the fix needs, and
for others, without the folders of this machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lcm.system.public_names import expanded
from lcm.system.text import plain

PATH = re.compile(r"(?<![\w.:/\\~-])(?:~|\.{1,2}|[A-Za-z]:)?(?:[\\/]+[^\s\\/'\"`,;:()<>|]+)+[\\/]*")
"""A path in a sentence that begins at a root, a home or here; an address of the web is none."""
LONGEST = 300


@dataclass(frozen=True)
class Reason:
    """`told` is for the terminal, `public` for files that go out into the world."""

    told: str
    public: str

    @classmethod
    def joined(cls, reasons: Iterable[Reason]) -> Reason:
        """Several as one sentence, each once."""
        found = list(dict.fromkeys(reasons))
        told, public = ([getattr(each, side) for each in found] for side in ("told", "public"))
        return cls(*("; and ".join(dict.fromkeys(words)) for words in (told, public)))

    @classmethod
    def of(cls, error: BaseException, known: Mapping[str, Path | None]) -> Reason:
        """What an error says, its kind where it is not one of ours; `known` are folders by what
        others are told of them.
        """
        kind = "" if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: "
        public = getattr(error, "public", None) or without_folders(str(error), known)
        return cls(*(f"{kind}{plain(words, LONGEST)}" for words in (str(error), public)))


def without_folders(text: str, known: Mapping[str, Path | None]) -> str:
    """A text with the words for `known` folders in their place, and of any other path its last part
    alone.
    """
    places = [
        (spelled, words)
        for words, folder in {**known, "~": expanded("~")}.items()
        if folder is not None
        for spelled in {folder, folder.absolute(), folder.resolve()}
        if spelled.name.strip(".")
    ]
    # the longest first: one may lie in another
    for place, words in sorted(places, key=lambda each: -len(str(each[0]))):
        # a word may be the name of a folder here, unless something follows that lies in it
        after = r"(?=[\\/]|[^\w.-]|$)" if place.is_absolute() else r"(?=[\\/])"
        text = re.sub(rf"(?<![\w./\\-]){re.escape(str(place))}{after}", words, text)
    return PATH.sub(lambda match: re.split(r"[\\/]", match[0].rstrip("\\/"))[-1], text)
