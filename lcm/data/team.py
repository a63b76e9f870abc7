"""The processes of a run, as work that is shared out needs to know them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


def nothing() -> None:
    """What one process does to wait for the others."""


@dataclass(frozen=True)
class Team:
    """This process is number `rank` of `size`. `gather` joins the lists of all, for all; `wait` returns when all have come."""

    rank: int = 0
    size: int = 1
    gather: Callable[[list[Any]], list[Any]] = list
    wait: Callable[[], None] = nothing

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part: every `size`-th item. All processes must hold the same list."""
        return items[self.rank :: self.size]


ALONE = Team()
