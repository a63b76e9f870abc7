"""What a metric is: a function of drawn pictures to a statistic, which is a number of any set of
prompts, so that its interval and its difference between two adapters come from drawing prompts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from lcm.evaluation.weights import Weights

if TYPE_CHECKING:
    from lcm.evaluation.scene import Scene

Indices = npt.NDArray[np.int64]
Array = npt.NDArray[np.float64]

Range = tuple[float, float]
ANYTHING: Range = (-math.inf, math.inf)
Bound = Literal["at least", "at most"]

REPEATED, HALVED, FIXED = "bootstrap", "half samples", "none"
DRAWS, HALVES = 1000, 24
"""Sets of prompts that are drawn for an interval."""


def repeated(count: int) -> Iterator[Indices]:
    """Sets of as many prompts, drawn with replacement; always the same sets of a count."""
    yield from np.random.default_rng(0).integers(count, size=(DRAWS, count))


def halves(count: int) -> Iterator[Indices]:
    """Half of the prompts, drawn without replacement; always the same sets of a count."""
    rng = np.random.default_rng(0)
    for _ in range(HALVES):
        yield np.sort(rng.permutation(count)[: count // 2])


@dataclass(frozen=True)
class Statistic:
    """A number of prompts: `of` is asked with their indices [n] of `prompts`, and returns it, not
    finite where there is none.

    `resampled` says how its interval is found: "bootstrap", where a prompt may count twice; "half
    samples" of prompts for distances between sets, to which a picture that counts twice looks like
    a copy; "none" for what is no mean of prompts. `pictures` is how many it is made of. `floor` is
    what it would be of a student that draws from the teacher's own distribution. `details` go into
    evaluation.json as they are. It can be nothing outside of `possible`. Where what lies beyond two
    numbers cannot be told from them they are its `ends`, and a value there is a bound.
    """

    of: Callable[[Indices], float]
    prompts: int
    pictures: int
    resampled: str = REPEATED
    floor: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    possible: Range = ANYTHING
    ends: Range | None = None

    @property
    def bound(self) -> Bound | None:
        """What the value is where it is a bound alone."""
        if self.ends is None or not math.isfinite(self.value):
            return None
        low, high = self.ends
        return "at most" if self.value <= low else "at least" if self.value >= high else None

    @cached_property
    def value(self) -> float:
        """The number of all prompts."""
        return self.of(np.arange(self.prompts))

    @cached_property
    def resampled_values(self) -> Array | None:
        """The number of every set of prompts that is drawn for an interval, the same sets for all
        statistics of as many prompts; None where there are too few, or one has no number.
        """
        if self.resampled == FIXED or self.prompts < (4 if self.resampled == HALVED else 2):
            return None
        if not np.isfinite(self.value):
            return None
        sets = halves if self.resampled == HALVED else repeated
        found = np.array([self.of(indices) for indices in sets(self.prompts)], dtype=np.float64)
        return found if np.isfinite(found).all() else None


def first(means: Array) -> float:
    """The only column."""
    return float(means[0])


def over(means: Array) -> float:
    """The first number over the second."""
    return float(means[0] / means[1]) if means[1] > 0 else math.nan


def of_rows(
    rows: npt.ArrayLike, pictures: int, combine: Callable[[Array], float] = first, **options: Any
) -> Statistic:
    """A statistic of numbers by prompts, [N, K] or [N]: `combine` makes the number of their means
    [K] over prompts.
    """
    table = np.asarray(rows, dtype=np.float64).reshape(len(np.asarray(rows)), -1)
    return Statistic(
        lambda indices: combine(table[indices].mean(axis=0)), len(table), pictures, **options
    )


def constant(value: float, pictures: int, **options: Any) -> Statistic:
    """A number that belongs to no prompt."""
    return Statistic(lambda indices: value, 1, pictures, FIXED, **options)


@dataclass(frozen=True)
class Metric:
    """A number of the pictures of one adapter in one number of steps.

    `better` is "lower", "higher" or, where a number should be as the teacher's, "teacher". `needs`
    are the weights that it reads, `packages` the modules that must be importable, each with what
    installs it. `seeds` is the least number of pictures of a prompt. `of_teacher`: it is measured
    of the teacher's own pictures too, as a row to compare with. `of_sets`: it compares two sets of
    pictures, and is asked once more against --reference_dir where there is one.
    """

    title: str
    group: str
    better: Literal["lower", "higher", "teacher"]
    measure: Callable[[Scene], Statistic | None]
    about: str = ""
    needs: tuple[Weights, ...] = ()
    packages: Mapping[str, str] = field(default_factory=dict)
    seeds: int = 1
    of_teacher: bool = False
    of_sets: bool = False
    neutral: float | None = None
    form: str = ".3f"
