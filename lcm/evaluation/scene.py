"""What a metric is asked with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lcm.evaluation.drawings import Drawings
from lcm.evaluation.features import Features
from lcm.evaluation.speed import Speed


@dataclass(frozen=True)
class Scene:
    """The pictures that are measured, those of the teacher of the same prompts and seeds, and the
    teacher's of a part of them in few steps, by steps.

    `real` are the files of --reference_dir, where a distance between sets is asked against them.
    """

    drawn: Drawings
    teacher: Drawings
    curve: Mapping[int, Drawings]
    features: Features
    speed: Speed | None = None
    real: Sequence[Path] | None = None

    @property
    def is_teacher(self) -> bool:
        """Whether the teacher itself is measured."""
        return self.drawn is self.teacher
