"""Means and deviations of the channels of what was drawn, beside the teacher's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from lcm.evaluation.drawings import Drawings
from lcm.evaluation.metric import Array, Statistic, of_rows
from lcm.evaluation.scene import Scene
from lcm.outputs.gauges import channel_means, channel_stds, rounded

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
