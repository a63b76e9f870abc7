"""The loss after the whole play: the student samples as it will be sampled, from the noise of a
cached trajectory to an image in N deterministic steps, with gradients through all of them, and is
compared with the teacher's image of that noise.

`endpoint` and `reflow` teach each step on points where the teacher passes. Here a step sees what
the student's own earlier steps make, and is taught what the later ones need. N steps cost N forward
and backward passes, whose activations are held at once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from lcm.adapter.recipe import Play
from lcm.diffusion.grid import SolverGrid
from lcm.diffusion.losses import Loss, energy
from lcm.diffusion.schedule import CLEAN, NoiseSchedule
from lcm.diffusion.times import DirectTimes, LandClean
from lcm.methods import endpoint
from lcm.methods.context import LossContext
from lcm.methods.method import Method, check_divides, trailing_play
from lcm.methods.objective import Compared, Objective
from lcm.methods.parts import OnChord


@dataclass(frozen=True)
class RolloutSettings(endpoint.EndpointSettings):
    """The numbers of steps that are played, all of them from every sample."""

    rollout_steps: tuple[int, ...] = (4,)


@dataclass(frozen=True)
class AfterPlay:
    """The mean distance over plays of so many steps by `DDIMScheduler` trailing, from x_t at T - 1.

    They share their first pass, which answers the same noise: 1 + the sum of (N - 1) passes. The
    point that counts as landed is that of the last of them.
    """

    steps: tuple[int, ...]

    def __call__(self, objective: Objective, context: LossContext, target: Tensor) -> Compared:
        first = context.nets.student(context.x_t, context.times.t, context.cond)
        # two draws of a play are the same one, where a negative control compares laws
        draws = 2 if objective.loss is energy else 1
        points = [play_out(objective, context, first, n) for n in self.steps]
        distances = [
            objective.loss(point.repeat(draws, 1, 1, 1), target, objective.huber_c)
            for point in points
        ]
        return Compared(torch.stack(distances).mean(0), points[-1])


def play_out(objective: Objective, context: LossContext, output: Tensor, num_steps: int) -> Tensor:
    """The clean latents [B, C, h, w] after `num_steps` steps, of which the first answers `output`
    [B, C, h, w].
    """
    start, x = context.times.t, context.x_t
    grid = SolverGrid(num_steps, objective.schedule.num_train_timesteps)
    times = [torch.full_like(start, t) for t in [*grid.timesteps.flip(0).tolist(), CLEAN]]
    for i, (t, s) in enumerate(pairwise(times)):
        if i > 0:
            output = context.nets.student(x, t, context.cond)
        x = objective.land(output, x, t, s)
    return x


def build(settings: RolloutSettings, schedule: NoiseSchedule, loss: Loss) -> Objective:
    """The clean end of the trajectory is the target of every play from its other end.

    Raises ValueError for numbers of steps that DDIM trailing cannot start on.
    """
    for num_steps in settings.rollout_steps:
        check_divides("rollout_steps", num_steps, schedule)
    return replace(
        endpoint.regression(settings, schedule, loss, OnChord),
        times=DirectTimes(SolverGrid(1, schedule.num_train_timesteps), LandClean()),
        compare=AfterPlay(settings.rollout_steps),
    )


def play(settings: RolloutSettings) -> Play:
    """`DDIMScheduler` trailing in the numbers of steps that were played."""
    return trailing_play(sorted(set(settings.rollout_steps)))


METHOD = Method(RolloutSettings(), build, play, keeps="ends", lands_clean=True)
