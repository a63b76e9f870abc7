"""How near a picture is to the one that the teacher draws from the same noise, in latents."""

from __future__ import annotations

from lcm.evaluation.metric import Metric, Statistic, of_rows, over
from lcm.evaluation.scene import Scene
from lcm.outputs.gauges import apart


def nmse(scene: Scene) -> Statistic:
    """As the gauge of this name: per prompt the square of the distance to the teacher's latents,
    and that between the teacher's own of each seed and the next, the first after the last.
    """
    rows = []
    for mine, theirs in zip(scene.drawn.all_latents(), scene.teacher.all_latents(), strict=True):
        off = (mine.double() - theirs.double()).square().mean()
        rows.append((float(off), float(apart(theirs[None]))))
    return of_rows(rows, scene.drawn.pictures, over)


NMSE = Metric(
    "latent NMSE",
    "paired",
    "lower",
    nmse,
    about="squared distance over that between the teacher's pictures of each seed and the next: 0 "
    "is the teacher's own picture, 1 an unrelated one of the same prompt",
    seeds=2,
    form=".3f",
)
