"""What of the teacher's colours has changed as a whole: the gauge of the training grids over all
prompts, and the channels of the pictures beside.
"""

from __future__ import annotations

from typing import Any

import torch

from lcm.evaluation.channels import compared
from lcm.evaluation.drawings import Drawings
from lcm.evaluation.features import to_pixels
from lcm.evaluation.metric import Metric, Statistic
from lcm.evaluation.scene import Scene
from lcm.outputs.gauges import rounded, shift


def of_pixels(drawings: Drawings) -> dict[str, Any]:
    """Mean, and standard deviation within a picture, of red, green and blue in 0..255."""
    means, variances = [], []
    for index in range(len(drawings)):
        pixels = to_pixels(drawings.images([(index, seed) for seed in drawings.seeds])).double()
        means.append(pixels.mean(dim=(0, 2, 3)))
        variances.append(pixels.var(dim=(2, 3), unbiased=False).mean(dim=0))
    return {
        "rgb_mean": rounded(torch.stack(means).mean(dim=0).tolist()),
        "rgb_std": rounded(torch.stack(variances).mean(dim=0).sqrt().tolist()),
    }


def color_shift(scene: Scene) -> Statistic:
    """The gauge of this name."""
    found = compared(scene, lambda mine, theirs: shift(mine[0], theirs[0], theirs[1]))
    theirs = {f"teacher_{name}": value for name, value in of_pixels(scene.teacher).items()}
    details = {**found.details, **of_pixels(scene.drawn), **theirs}
    return Statistic(found.of, found.prompts, found.pictures, details=details)


COLOR_SHIFT = Metric(
    "colour shift",
    "color",
    "lower",
    color_shift,
    about="how far the means of the latents' channels moved, in the teacher's deviations",
    form=".3f",
)
