"""Processes that are threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, BrokenBarrierError
from typing import Any, TypeVar

from lcm.system.processes import Team

T = TypeVar("T")


def teams(size: int) -> list[Team]:
    """Threads in the place of processes, joined as gather_object and wait_for_everyone join
    those.
    """
    lists: list[list[Any]] = [[] for _ in range(size)]
    barrier = Barrier(size, timeout=30)

    def gather(rank: int, mine: list[Any]) -> list[Any]:
        lists[rank] = mine
        barrier.wait()
        joined = [item for part in lists for item in part]
        barrier.wait()
        return joined

    return [
        Team(rank, size, lambda mine, rank=rank: gather(rank, mine), barrier.wait)
        for rank in range(size)
    ]


def at_once(work: Callable[[Team], T], size: int) -> list[T]:
    """What `work` returns in each of so many processes, by rank. Threads share what no processes
    do: give each its own tokenizers, which change while they are called.

    Of errors the one that made the others wait in vain is raised.
    """
    with ThreadPoolExecutor(size) as pool:
        done = [pool.submit(work, team) for team in teams(size)]
    errors = [error for future in done if (error := future.exception())]
    for error in sorted(errors, key=lambda error: isinstance(error, BrokenBarrierError)):
        raise error
    return [future.result() for future in done]
