"""The processes of a run, as work that is shared out needs to know them."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Hashable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


LOST = re.compile(
    r"/gloo/|connection (closed|reset|refused)|broken pipe|NCCL|remote process", re.IGNORECASE
)
"""What the back ends say where a process that they wait for has ended."""


class ProcessLostError(RuntimeError):
    """A process that this one works with has ended, or cannot be reached."""

    status = 1


def lost_process(error: BaseException, saved: str) -> ProcessLostError | None:
    """What to say where `error` is that of a network whose other end is gone; None for others.
    `saved` is what is safe.
    """
    text = str(error)
    if not isinstance(error, RuntimeError) or not LOST.search(text):
        return None
    what = re.sub(r"^\[.*?\] ?", "", text.strip().splitlines()[0]).partition(". ")[0]
    return ProcessLostError(
        f"another process of this run has ended, or cannot be reached ({what}); what it printed "
        f"last says why ({saved})"
    )


def nothing() -> None:
    """What one process does to wait for the others."""


@dataclass(frozen=True)
class Team:
    """This process is number `rank` of `size`. `gather` joins the lists of all, for all; `wait`
    returns when all have come.

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
        """Raises ValueError, on all processes, where their `facts` differ: they do not see the same
        `what`, which lies `where`.
        """
        if self.size > 1 and len(set(self.gather([facts]))) > 1:
            raise ValueError(
                f"the processes do not see the same {what}; give all machines the same {where}"
            )

    def together(self, work: Callable[[], T]) -> T:
        """What `work`, in which processes do not meet, returns here, once all have done theirs.

        Where it raises ValueError or OSError on one of them it does so on all: none is left
        waiting.
        """
        result: list[T] = []
        mine: ValueError | OSError | None = None
        try:
            result.append(work())
        except (ValueError, OSError) as error:
            mine = error
        errors = self.gather(
            [] if mine is None else [f"{mine} (on process {self.rank} of {self.size})"]
        )
        if mine is not None:
            raise mine
        if errors:
            raise ValueError(errors[0])
        return result[0]

    def from_main(self, work: Callable[[], T]) -> T:
        """What `work` returns on process 0, on all: the disks of other machines do not count. So
        does what it raises.
        """
        result = self.together(lambda: [work()] if self.rank == 0 else [])
        joined: list[T] = self.gather(result)
        return joined[0]

    def check_shared(self, folder: Path, flag: str) -> None:
        """Raises ValueError, on all processes, where `folder`, which exists, is not one and the
        same for all of them.
        """
        if self.size == 1:
            return
        with ExitStack() as stack:
            mark = self.from_main(
                lambda: (
                    stack.enter_context(
                        tempfile.NamedTemporaryFile(dir=folder, prefix=".shared-")
                    ).name
                )
            )
            seen = self.gather([(folder / Path(mark).name).exists()])
        if not all(seen):
            raise ValueError(
                f"{flag}: {folder} of process 0 is not that of process {seen.index(False)}; give "
                f"all machines the same --{flag}, on a disk that they share"
            )


ALONE = Team()
