"""What a metric is: a function of drawn pictures to a statistic, which is a number of any set of
prompts, so that its interval and its difference between two adapters come from drawing prompts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from lcm.evaluation.weights import Weights

if TYPE_CHECKING:
    from lcm.evaluation.scene import Scene

Indices = npt.NDArray[np.int64]
Array = npt.NDArray[np.float64]

REPEATED, HALVED, FIXED = "bootstrap", "half samples", "none"


@dataclass(frozen=True)
class Statistic:
    """A number of prompts: `of` is asked with their indices [n] of `prompts`, and returns it, not
    finite where there is none.

    `resampled` says how its interval is found: "bootstrap", where a prompt may count twice; "half
    samples" of prompts for distances between sets, to which a picture that counts twice looks like
    a copy; "none" for what is no mean of prompts. `pictures` is how many it is made of. `floor` is
    what it would be of a student that draws from the teacher's own distribution. `details` go into
    evaluation.json as they are.
    """

    of: Callable[[Indices], float]
    prompts: int
    pictures: int
    resampled: str = REPEATED
    floor: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def value(self) -> float:
        """That of all prompts."""
        return self.of(np.arange(self.prompts))


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
