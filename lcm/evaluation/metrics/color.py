"""What of the teacher's colours and contrast has changed as a whole: the gauges of the training
grids over all prompts, and the channels of the pictures beside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from lcm.evaluation.drawings import Drawings
from lcm.evaluation.features import to_pixels
from lcm.evaluation.metric import Array, Metric, Statistic, of_rows
from lcm.evaluation.scene import Scene
from lcm.outputs.gauges import channel_means, channel_stds, ratio, rounded, shift

Moments = tuple[torch.Tensor, torch.Tensor]
"""The means and standard deviations of channels, each [C]."""


def moments(drawings: Drawings) -> Array:
    """[N, 2 C]: of every prompt the means and the variances of the channels of its latents."""
    rows = [
        torch.cat([channel_means(each[None]), channel_stds(each[None]).square()])
        for each in drawings.all_latents()
    ]
    found: Array = torch.stack(rows).numpy()
    return found


def split(means: Array) -> tuple[Moments, Moments]:
    """Ours and the teacher's, of the means over prompts of both's `moments`."""
    parts = torch.from_numpy(np.asarray(means)).chunk(4)
    return (parts[0], parts[1].sqrt()), (parts[2], parts[3].sqrt())


def compared(scene: Scene, combine: Callable[[Moments, Moments], float]) -> Statistic:
    """A statistic of the channels of both."""
    rows = np.concatenate([moments(scene.drawn), moments(scene.teacher)], axis=1)
    mine, theirs = split(rows.mean(axis=0))
    details = {
        **{"latent_mean": rounded(mine[0].tolist()), "latent_std": rounded(mine[1].tolist())},
        "teacher_latent_mean": rounded(theirs[0].tolist()),
        "teacher_latent_std": rounded(theirs[1].tolist()),
    }
    return of_rows(
        rows, scene.drawn.pictures, lambda means: combine(*split(means)), details=details
    )


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


def contrast(scene: Scene) -> Statistic:
    """The gauge of this name."""
    return compared(scene, lambda mine, theirs: ratio(mine[1], theirs[1]))


COLOR_SHIFT = Metric(
    "colour shift",
    "color",
    "lower",
    color_shift,
    about="how far the means of the latents' channels moved, in the teacher's deviations",
    form=".3f",
)
CONTRAST = Metric(
    "contrast",
    "color",
    "teacher",
    contrast,
    about="deviation within a picture over the teacher's",
    neutral=1.0,
    form=".3f",
)
