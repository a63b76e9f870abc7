"""How much the pictures of one prompt differ, beside the teacher's."""

from __future__ import annotations

from lcm.evaluation.metric import Metric, Statistic, of_rows, over
from lcm.evaluation.scene import Scene
from lcm.outputs.gauges import within_prompt_variance


def diversity(scene: Scene) -> Statistic:
    """The gauge of this name: the variance within a prompt over the teacher's."""
    rows = [
        (within_prompt_variance(mine[None]), within_prompt_variance(theirs[None]))
        for mine, theirs in zip(scene.drawn.all_latents(), scene.teacher.all_latents(), strict=True)
    ]
    return of_rows(rows, scene.drawn.pictures, over)


DIVERSITY = Metric(
    "diversity",
    "diversity",
    "teacher",
    diversity,
    about="variance of the latents within a prompt over the teacher's",
    seeds=2,
    neutral=1.0,
    form=".3f",
)
