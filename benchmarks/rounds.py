"""Timing several pieces of work against each other: in turn, in one process, round by round."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

Clock = Callable[[Callable[[], object]], float]
"""Does some work -> the seconds that it took."""
DRAWS = 1000
LEAST_ROUNDS = 3


def process_seconds(work: Callable[[], object]) -> float:
    """Seconds of this process's own work, whatever else the machine does."""
    start = time.process_time()
    work()
    return time.process_time() - start


def measure_seconds(
    steps: dict[str, Callable[[], object]],
    rounds: int,
    clock: Clock = process_seconds,
    *,
    within: float | None = None,
    before: Callable[[str], object] | None = None,
) -> dict[str, list[float]]:
    """Seconds of every step and round; the order turns by one every round, and the first round is
    not counted.

    After `within` seconds of wall time no further round begins, once there are LEAST_ROUNDS.
    `before` is told the name of what comes next, which is not timed.
    """
    names, start = list(steps), time.perf_counter()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1 if names else 0):
        is_over = within is not None and time.perf_counter() - start > within
        if is_over and number > LEAST_ROUNDS:
            break
        for name in names[number % len(names) :] + names[: number % len(names)]:
            if before is not None:
                before(name)
            taken = clock(steps[name])
            if number:
                seconds[name].append(round(taken, 6))
    return seconds


def ratio(slower: Sequence[float], faster: Sequence[float]) -> tuple[float, float, float]:
    """Median over the rounds of their ratio, and the ends of its 95 % bootstrap interval."""
    ratios = np.asarray(slower) / np.asarray(faster)
    drawn = np.random.default_rng(0).choice(ratios, (DRAWS, len(ratios)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
    return float(np.median(ratios)), float(low), float(high)
