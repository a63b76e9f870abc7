"""The samples of a run, and how many were left out and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace

from lcm.data.pictures import Picture
from lcm.data.records import Record

Reread = Callable[[Collection[str]], Iterator[Record]]


@dataclass(frozen=True)
class LoadedData:
    """What a source gave: usable records, their pictures, None of prompts alone, and counts of what
    was left out by reason.

    The pictures of a stream have gone by; `reread` brings those of some keys back, in the order of
    the stream.
    """

    source: str
    records: list[Record]
    pictures: list[Picture] | None
    dropped: Counter[str]
    reread: Reread | None = None

    def first(self, count: int) -> LoadedData:
        """These data with so many samples at most."""
        pictures = None if self.pictures is None else self.pictures[:count]
        return replace(self, records=self.records[:count], pictures=pictures)
