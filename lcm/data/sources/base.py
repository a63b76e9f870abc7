"""The contract of a source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lcm.data.config import DataConfig
from lcm.data.records import Record

Read = Callable[[str, DataConfig, Counter[str]], Iterator[Record]]
"""Reads records in a fixed order from the value of the source's field; those left out are counted
by reason in the third argument.

Raises FileNotFoundError or ValueError, naming the flag and the fix, when there is nothing to read.
"""


@dataclass(frozen=True)
class Source:
    """Where samples come from. Its name in SOURCES is the field of DataConfig that chooses it, or
    what --other_source names.
    """

    read: Read
    add_captions: str = ""  # what to do when no image has one; {} is the caption column
    has_images: bool = True
