"""What of the teacher's contrast has changed as a whole: the gauge of the training grids over all
prompts.
"""

from __future__ import annotations

from lcm.evaluation.channels import compared
from lcm.evaluation.metric import Metric, Statistic
from lcm.evaluation.scene import Scene
from lcm.outputs.gauges import ratio


def contrast(scene: Scene) -> Statistic:
    """The gauge of this name."""
    return compared(scene, lambda mine, theirs: ratio(mine[1], theirs[1]))


CONTRAST = Metric(
    "contrast",
    "color",
    "teacher",
    contrast,
    about="deviation within a picture over the teacher's",
    neutral=1.0,
    form=".3f",
)
