"""How far sets of pictures are from each other, in the features of a network, by torch-fidelity.

No seed occurs on both sides: of the pictures of a prompt the first half of the seeds is compared
with the other half of the teacher's. The floor is the teacher's own first half against its other
half, so that a student that draws from the teacher's distribution has the floor. With one seed the
prompts are halved instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from lcm.evaluation.features import NETS
from lcm.evaluation.metric import ANYTHING, HALVED, Indices, Metric, Range, Statistic
from lcm.evaluation.scene import Scene
from lcm.libraries.torch_fidelity import PACKAGES

POSITIVE: Range = (0.0, math.inf)
SHARE: Range = (0.0, 1.0)
Distance = Callable[[Tensor, Tensor], float]
"""Features [N, D] of generated pictures, and those of the reference, float64 -> a number."""


@dataclass(frozen=True)
class Halves:
    """Features [N, S, D] of prompts and seeds as a first and a second half."""

    features: Tensor

    def of(self, indices: Indices, second: bool) -> Tensor:
        """The features [n, D] of a half of these prompts."""
        found, seeds = self.features[torch.from_numpy(indices)], self.features.shape[1]
        if seeds == 1:
            return found[int(second) :: 2].flatten(0, 1)
        half = seeds // 2
        return (found[:, seeds - half :] if second else found[:, :half]).flatten(0, 1)


def between(net: str, distance: Distance, possible: Range, scene: Scene) -> Statistic:
    """The distance to the teacher's pictures, or to real ones where the scene has them."""
    mine = scene.features.of_drawings(net, scene.drawn).double()
    theirs = scene.features.of_drawings(net, scene.teacher).double()
    everything = np.arange(len(scene.drawn))
    if scene.real is not None:
        reference = scene.features.of_files(net, scene.real).double()

        def to_real(indices: Indices) -> float:
            return distance(mine[torch.from_numpy(indices)].flatten(0, 1), reference)

        floor = distance(theirs.flatten(0, 1), reference)
        return Statistic(
            *(to_real, len(scene.drawn), scene.drawn.pictures, HALVED),
            floor=floor,
            possible=possible,
            details={"real_pictures": len(reference)},
        )
    ours, teachers = Halves(mine), Halves(theirs)

    def to_teacher(indices: Indices) -> float:
        return distance(ours.of(indices, False), teachers.of(indices, True))

    floor = distance(teachers.of(everything, False), teachers.of(everything, True))
    count = len(ours.of(everything, False))
    return Statistic(*(to_teacher, len(scene.drawn), count, HALVED), floor=floor, possible=possible)


def metric(
    net: str,
    title: str,
    distance: Distance,
    about: str,
    better: str,
    form: str,
    possible: Range = ANYTHING,
) -> Metric:
    """The metric of a distance in the features of a network, which is nothing outside of
    `possible`.
    """
    return Metric(
        title,
        "distribution",
        better,  # type: ignore[arg-type]
        partial(between, net, distance, possible),
        about=about,
        needs=NETS[net].needs,
        packages=PACKAGES,
        of_sets=True,
        form=form,
    )
