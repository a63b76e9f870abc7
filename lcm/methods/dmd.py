"""Distribution matching distillation of a few-step generator (DMD2, Yin et al. 2024): no pairs, no
trajectories; pictures alone count, wherever the noise that they came from.

The student lands from where `LCMScheduler` will come past when it plays 1, 2 or 4 steps: points
that the student itself makes on its way from pure noise (backward simulation, section 4.5). The
term `dmd` is the loss; `adversarial` may stand beside it, with the pictures of the data as what is
real.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from lcm.adapter.recipe import Play
from lcm.diffusion.consistency import TIMESTEP_SCALING
from lcm.diffusion.grid import SolverGrid, which_of
from lcm.diffusion.losses import Loss
from lcm.diffusion.schedule import CLEAN, NoiseSchedule
from lcm.diffusion.times import Times
from lcm.methods.context import LossContext
from lcm.methods.method import Method, compose, lcm_play
from lcm.methods.objective import Compared, Objective
from lcm.methods.parts import regress
from lcm.methods.settings import TeacherSettings
from lcm.system.transfers import sent


@dataclass(frozen=True)
class DmdSettings(TeacherSettings):
    """The numbers of steps that the student is made for, the grid that they are taken from, and the
    timestep at which they begin: what a network says of epsilon counts sigma / alpha fold in the
    picture, 14.6 at the last timestep, 3.3 at 699 (DMD2 has 399 for one step of SDXL, Hyper-SD
    800).
    """

    num_ddim_timesteps: int = 50
    dmd_steps: tuple[int, ...] = (1, 2, 4)
    first_timestep: int = 699
    weighting: str = "balanced"
    terms: tuple[str, ...] = ("dmd",)
    critic_updates: int = 2
    adversarial_real: str = "images"
    timestep_scaling_factor: float = TIMESTEP_SCALING


@cache
def played_times(
    grid: SolverGrid, step_counts: tuple[int, ...], first: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The times of samplers of so many steps, [K, N] int64, each row the noisiest first and padded
    with CLEAN, and the numbers of steps [K]; sent to a device once, not in every step.
    """
    most = max(step_counts)
    times = [grid.few_step(n, first).tolist() for n in step_counts]
    rows = [[*row, *[CLEAN] * (most - len(row))] for row in times]
    return sent(torch.tensor(rows), device), sent(torch.tensor(step_counts), device)


@dataclass(frozen=True)
class PlayedTimes:
    """t from the times that samplers of so many `steps` visit on the grid from `first` on: first
    one of the numbers of steps, then one of its times, all equally likely. Both land clean.
    """

    grid: SolverGrid
    steps: tuple[int, ...]
    first: int
    direct: bool = True

    def __call__(self, uniform: Tensor, uniform_landing: Tensor, progress: float) -> Times:
        times, place = self.on_their_way(uniform)
        t = times.gather(1, place[:, None])[:, 0]
        clean = torch.full_like(t, CLEAN)
        return Times(t, clean, clean)

    def on_their_way(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """The times [B, N] of the sampler of each sample, the noisiest first, padded with CLEAN to
        the largest number of steps, and the place [B] of the one that is trained.
        """
        table, steps = played_times(self.grid, self.steps, self.first, uniform.device)
        scaled = uniform * len(self.steps)
        which = which_of(len(self.steps), uniform)
        return table[which], which_of(steps[which], scaled - which)


@dataclass(frozen=True)
class PlayedByStudent:
    """x_t where `LCMScheduler` comes to it, from pure noise: at every time before t the student
    lands and new noise is added.
    """

    times: PlayedTimes

    @property
    def noises(self) -> int:
        """One between every two steps."""
        return max(self.times.steps) - 1

    def __call__(self, objective: Objective, context: LossContext) -> Tensor:
        batch, schedule = context.batch, objective.schedule
        known = batch.uniform_time if batch.host_time is None else batch.host_time
        times, place = self.times.on_their_way(known)
        x = batch.noise
        for step in range(self.noises):
            # those that are there already wait
            going = (place > step).nonzero()[:, 0]
            if not len(going):
                break
            assert batch.extra_noise is not None
            t, following = (sent(times[going, step + i], x.device) for i in (0, 1))
            rows = sent(going, x.device)
            cond = context.cond.map(lambda part, rows=rows: part[rows])  # type: ignore[misc]
            output = context.nets.target(x[rows], t, cond)
            clean = objective.land(output, x[rows], t, torch.full_like(t, CLEAN))
            passed = schedule.add_noise(clean, batch.extra_noise[rows, step], following)
            x = x.index_copy(0, rows, passed)
        return x


@dataclass(frozen=True)
class AnyPicture:
    """No second point, since there are no pairs: a picture of the data with the same prompt, for
    what tells pictures from the student's.
    """

    kind: str = "none"

    def __call__(self, objective: Objective, context: LossContext) -> Tensor:
        return context.batch.x0


def no_distance(objective: Objective, context: LossContext, target: Tensor) -> Compared:
    """Nothing to compare with: the landing point alone. The zero hangs on it, for a batch of which
    no term has a gradient.
    """
    point = objective.student_lands(context)
    return Compared(0.0 * point.flatten(1).mean(1), point)


def build(settings: DmdSettings, schedule: NoiseSchedule, loss: Loss) -> Objective:
    """Where the student lands from the points of its own play; the terms are the loss.

    Raises ValueError for more steps than the grid has from its first timestep on.
    """
    grid = SolverGrid(settings.num_ddim_timesteps, schedule.num_train_timesteps)
    times = PlayedTimes(grid, settings.dmd_steps, settings.first_timestep)
    try:
        for steps in settings.dmd_steps:
            grid.few_step(steps, settings.first_timestep)
    except ValueError as error:
        raise ValueError(f"dmd_steps: {error}") from error
    objective = compose(
        settings, schedule, loss, times=times, coupling=AnyPicture(), target=regress
    )
    return replace(
        objective,
        compare=no_distance,
        simulation=PlayedByStudent(times),
        timestep_scaling=settings.timestep_scaling_factor,
    )


def play(settings: DmdSettings) -> Play:
    """`LCMScheduler` in the numbers of steps that were trained, from where they began."""
    whole = lcm_play(settings.num_ddim_timesteps, settings.timestep_scaling_factor)
    steps, first = sorted(set(settings.dmd_steps)), settings.first_timestep
    is_last = first == SolverGrid(settings.num_ddim_timesteps).last
    return replace(whole, num_inference_steps=steps, first_timestep=None if is_last else first)


METHOD = Method(DmdSettings(), build, play, lands_clean=True, compares="nothing")
