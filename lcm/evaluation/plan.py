"""What an evaluation draws: which prompts, in which seeds and numbers of steps, of whom."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lcm.evaluation.subjects import Subject

CURVE_STEPS = (1, 2, 4, 8, 16, 25)
"""The teacher's own few steps, on which an adapter's distance is read off as a number of them."""
CURVE_PROMPTS = 32
"""So many prompts say it to a tenth, and cost less than the teacher's pictures of all."""


@dataclass(frozen=True)
class Plan:
    """`steps` are those of the adapters. `has_curve`: the teacher also draws some prompts in few
    steps. `times`: it is measured how long a picture takes.
    """

    folder: Path
    subjects: Sequence[Subject]
    prompts: Sequence[str]
    seeds: Sequence[int]
    steps: Sequence[int]
    teacher_steps: int
    has_curve: bool = True
    times: bool = True

    def steps_of(self, subject: Subject) -> Sequence[int]:
        """The numbers of steps of its rows in the tables."""
        return [self.teacher_steps] if subject.found is None else self.steps

    def wanted(self, subject: Subject) -> Iterator[tuple[int, Sequence[int], Sequence[int]]]:
        """The (steps, numbers of prompts, seeds) of every set that a subject draws."""
        everything = range(len(self.prompts))
        for steps in self.steps_of(subject):
            yield steps, everything, self.seeds
        if subject.found is None and self.has_curve:
            for steps in self.curve_steps:
                yield steps, self.curve_rows, self.seeds[:1]

    @property
    def curve_steps(self) -> list[int]:
        """The teacher's numbers of steps below that of its own pictures."""
        return [steps for steps in CURVE_STEPS if steps < self.teacher_steps]

    @property
    def curve_rows(self) -> list[int]:
        """The prompts of the curve, evenly spread."""
        count = min(CURVE_PROMPTS, len(self.prompts))
        return [i * len(self.prompts) // count for i in range(count)]
