"""The contract of a source."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from lcm.data.records import Record

if TYPE_CHECKING:
    from lcm.data.config import DataConfig


class Source(ABC):
    """Where samples come from. Its name in SOURCES is the field of DataConfig that chooses it."""

    add_captions: ClassVar[str] = ""  # what to do when no image has one; {} is the caption column
    has_images: ClassVar[bool] = True

    @abstractmethod
    def read(self, where: str, config: DataConfig, dropped: Counter[str]) -> Iterator[Record]:
        """Records in a fixed order from `where`, the value of that field; those left out are
        counted in `dropped` by reason.

        Raises FileNotFoundError or ValueError, naming the flag and the fix, when there is nothing
        to read.
        """
