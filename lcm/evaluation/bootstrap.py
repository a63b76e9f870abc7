"""How far a number would move with other prompts: the pictures of a prompt succeed and fail
together, so that prompts are drawn and not pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lcm.evaluation.metric import FIXED, HALVED, Array, Indices, Statistic

DRAWS, HALVES = 1000, 24
LEVEL = 0.95
NORMAL = 1.959964
"""The 97.5 % quantile of the normal distribution."""


@dataclass(frozen=True)
class Interval:
    """An interval that holds the true number in 95 % of evaluations."""

    low: float
    high: float

    @property
    def half(self) -> float:
        """Half of its width."""
        return (self.high - self.low) / 2

    def excludes(self, value: float) -> bool:
        """Whether a number lies outside."""
        return not self.low <= value <= self.high


def repeated(count: int) -> Iterator[Indices]:
    """Sets of as many prompts, drawn with replacement; always the same sets of a count."""
    yield from np.random.default_rng(0).integers(count, size=(DRAWS, count))


def halves(count: int) -> Iterator[Indices]:
    """Half of the prompts, drawn without replacement; always the same sets of a count."""
    rng = np.random.default_rng(0)
    for _ in range(HALVES):
        yield np.sort(rng.permutation(count)[: count // 2])


def interval_of(of: Callable[[Indices], float], count: int, resampled: str) -> Interval | None:
    """The 95 % interval of a statistic of so many prompts; None where there is none to give.

    Of half samples: drawn without replacement, half of n prompts scatter around the number of all
    as n prompts scatter around the truth, variance s^2 (1 / (n / 2) - 1 / n) = s^2 / n.
    """
    if resampled == FIXED or count < (4 if resampled == HALVED else 2):
        return None
    if resampled == HALVED:
        value, found = of(np.arange(count)), measured(of, halves(count))
        if found is None or not np.isfinite(value):
            return None
        reach = NORMAL * float(found.std(ddof=1))
        return Interval(value - reach, value + reach)
    found = measured(of, repeated(count))
    if found is None:
        return None
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def measured(of: Callable[[Indices], float], sets: Iterator[Indices]) -> Array | None:
    """The number of every set; None where one is not finite."""
    values = np.array([of(indices) for indices in sets], dtype=np.float64)
    return values if np.isfinite(values).all() else None


def interval(statistic: Statistic) -> Interval | None:
    """The 95 % interval of a statistic."""
    return interval_of(statistic.of, statistic.prompts, statistic.resampled)


def difference(one: Statistic, other: Statistic) -> tuple[float, Interval | None] | None:
    """`one` less `other` over the same prompts, and its interval: what both owe to the choice of
    prompts cancels. None where they are not of the same prompts.
    """
    if (one.prompts, one.resampled) != (other.prompts, other.resampled):
        return None

    def of(indices: Indices) -> float:
        return one.of(indices) - other.of(indices)

    return of(np.arange(one.prompts)), interval_of(of, one.prompts, one.resampled)


def half_width(values: npt.ArrayLike, groups: Sequence[str]) -> float:
    """Half of the 95 % interval of the mean of `values` [N], whose prompts are `groups`: of
    different numbers of pictures too. 0 where all values are equal.
    """
    _, group = np.unique(np.asarray(groups), return_inverse=True)
    sums = np.bincount(group, weights=np.asarray(values, dtype=np.float64))
    counts = np.bincount(group)
    found = measured(lambda of: float(sums[of].sum() / counts[of].sum()), repeated(len(sums)))
    assert found is not None  # values are finite
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(high - low) / 2
