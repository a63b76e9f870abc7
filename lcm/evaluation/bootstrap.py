"""How far a number would move with other prompts: the pictures of a prompt succeed and fail
together, so that prompts are drawn and not pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lcm.evaluation.metric import (
    ANYTHING,
    HALVED,
    REPEATED,
    Array,
    Bound,
    Range,
    Statistic,
    repeated,
)

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


def interval(statistic: Statistic) -> Interval | None:
    """The 95 % interval of a statistic; None where there is none to give."""
    found = statistic.resampled_values
    if found is None:
        return None
    return interval_of(statistic.value, found, statistic.resampled, statistic.possible)


def interval_of(value: float, found: Array, resampled: str, possible: Range = ANYTHING) -> Interval:
    """The interval of a `value` of all prompts, `found` in sets of them, cut to what is `possible`.

    Of half samples: drawn without replacement, half of n prompts scatter around the number of all
    as n prompts scatter around the truth, variance s^2 (1 / (n / 2) - 1 / n) = s^2 / n.
    """
    if resampled == HALVED:
        reach = NORMAL * float(found.std(ddof=1))
        low, high = possible
        return Interval(max(value - reach, low), min(value + reach, high))
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def difference(
    one: Statistic, other: Statistic, neutral: float | None = None
) -> tuple[float, Interval | None] | None:
    """`one` less `other` over the same prompts, and its interval: what both owe to the choice of
    prompts cancels. With `neutral` it is their distances from that which are compared. None where
    they are not of the same prompts.
    """
    if (one.prompts, one.resampled) != (other.prompts, other.resampled):
        return None

    def less(mine: Array, theirs: Array) -> Array:
        if neutral is None:
            return mine - theirs
        return np.abs(mine - neutral) - np.abs(theirs - neutral)

    value = float(less(np.asarray(one.value), np.asarray(other.value)))
    mine, theirs = one.resampled_values, other.resampled_values
    if mine is None or theirs is None:
        return value, None
    return value, interval_of(value, less(mine, theirs), one.resampled)


def bound_of_difference(one: Statistic, other: Statistic) -> Bound | None:
    """What `one` less `other` is where one of them is a bound alone. Raises ValueError where it may
    be anything, since both are bounds on the same side.
    """
    turned: dict[Bound | None, Bound | None] = {"at least": "at most", "at most": "at least"}
    found = {one.bound, turned.get(other.bound)} - {None}
    if len(found) > 1:
        raise ValueError("both are bounds on the same side")
    return next(iter(found), None)


def half_width(values: npt.ArrayLike, groups: Sequence[str]) -> float:
    """Half of the 95 % interval of the mean of `values` [N], whose prompts are `groups`: of
    different numbers of pictures too. 0 where all values are equal.
    """
    _, group = np.unique(np.asarray(groups), return_inverse=True)
    sums = np.bincount(group, weights=np.asarray(values, dtype=np.float64))
    counts = np.bincount(group)
    found = np.array([sums[of].sum() / counts[of].sum() for of in repeated(len(sums))])
    return interval_of(0.0, found, REPEATED).half
