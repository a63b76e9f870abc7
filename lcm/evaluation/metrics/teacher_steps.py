"""In how many steps the teacher itself comes as near to its own pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from lcm.evaluation.metric import Array, Metric, Statistic, of_rows
from lcm.evaluation.scene import Scene
from lcm.outputs.gauges import apart, rounded


def equivalent_steps(nmse: float, curve: Mapping[int, float]) -> float:
    """The number of steps N with which the teacher itself, by plain DDIM, has this NMSE.

    `curve` maps measured N to its NMSE. Between two of them log N is linear in log NMSE. A value at
    the ends is a bound: the smallest N stands for "that many or fewer", the largest for "that many
    or more". Where the curve rises again, its running minimum is used, and of several N with one
    NMSE the smallest counts.
    """
    steps = sorted(curve)
    errors = np.minimum.accumulate([max(curve[n], 1e-12) for n in steps])
    if nmse >= errors[0]:
        return float(steps[0])
    if nmse < errors[-1]:
        return float(steps[-1])
    right = int(np.argmax(errors <= nmse))
    left = right - 1
    share = math.log(errors[left] / nmse) / math.log(errors[left] / errors[right])
    return float(steps[left] * (steps[right] / steps[left]) ** share)


def teacher_steps(scene: Scene) -> Statistic | None:
    """The distance of the first seed, read off the teacher's own on the prompts of its curve; None
    where noise is added on the way, which leads to other pictures.
    """
    steps = sorted(scene.curve)
    if not steps or not scene.drawn.is_paired:
        return None
    rows = []
    for index, row in enumerate(scene.curve[steps[0]].rows):
        theirs = scene.teacher.latents(scene.teacher.rows.index(row)).double()
        mine = scene.drawn.latents(scene.drawn.rows.index(row)).double()
        few = [scene.curve[n].latents(index)[0].double() for n in steps]
        off = [float((each - theirs[0]).square().mean()) for each in (mine[0], *few)]
        rows.append((float(apart(theirs[None])), *off))

    def combine(means: Array) -> float:
        if not (np.isfinite(means).all() and means[0] > 0):
            return math.nan
        curve = dict(zip(steps, (means[2:] / means[0]).tolist(), strict=True))
        return equivalent_steps(float(means[1] / means[0]), curve)

    means = np.mean(rows, axis=0)
    relative = rounded((means[2:] / means[0]).tolist() if means[0] > 0 else [math.nan] * len(steps))
    curve = dict(zip(map(str, steps), relative, strict=True))
    return of_rows(
        *(rows, len(rows), combine),
        details={"nmse_of_the_teacher_in_steps": curve},
        ends=(steps[0], steps[-1]),
    )


TEACHER_STEPS = Metric(
    "equivalent teacher steps",
    "paired",
    "higher",
    teacher_steps,
    about="steps of DDIM in which the teacher itself comes as near, as far as it was drawn in few",
    seeds=2,
    form=".1f",
)
