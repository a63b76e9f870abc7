"""The processes of a run, as work that is shared out needs to know them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


def nothing() -> None:
    """What one process does to wait for the others."""


@dataclass(frozen=True)
class Team:
    """This process is number `rank` of `size`. `gather` joins the lists of all, for all; `wait` returns when all have come.

    What is gathered is joined in order of rank.
    """

    rank: int = 0
    size: int = 1
    gather: Callable[[list[Any]], list[Any]] = list
    wait: Callable[[], None] = nothing

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part: every `size`-th item. All processes must hold the same list."""
        return items[self.rank :: self.size]

    def check_same(self, facts: Hashable, what: str, where: str) -> None:
        """Raises ValueError, on all processes, where their `facts` differ: they do not see the same `what`, which lies `where`."""
        if self.size > 1 and len(set(self.gather([facts]))) > 1:
            raise ValueError(f"the processes do not see the same {what}; give all machines the same {where}")


ALONE = Team()
