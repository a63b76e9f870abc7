"""Latent consistency distillation (Luo et al. 2023): skipping steps, guidance in the solver, clean
landing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from lcm.adapter.recipe import Play
from lcm.diffusion.consistency import TIMESTEP_SCALING
from lcm.diffusion.grid import SolverGrid
from lcm.diffusion.losses import Loss
from lcm.diffusion.schedule import NoiseSchedule
from lcm.diffusion.times import GridTimes, LandClean
from lcm.methods.method import Method, compose, follow_teacher, lcm_play
from lcm.methods.objective import Objective
from lcm.methods.parts import Played
from lcm.methods.settings import DistillationSettings


@dataclass(frozen=True)
class LcmSettings(DistillationSettings):
    """The grid of solver steps, how many of them a training pair spans, the share of samples that
    begin where inference comes past, and the scalings at the grid's boundary.
    """

    weighting: str = "balanced"
    num_ddim_timesteps: int = 50
    skipping_steps: int = 3
    simulated_play: float = 0.5
    simulated_play_warmup_steps: int = 200
    timestep_scaling_factor: float = TIMESTEP_SCALING


def build(settings: LcmSettings, schedule: NoiseSchedule, loss: Loss) -> Objective:
    """The loss of LCM, Eq. 14: one solver step across the grid, and both of its ends land clean."""
    grid = SolverGrid(settings.num_ddim_timesteps, schedule.num_train_timesteps)
    objective = compose(
        settings,
        schedule,
        loss,
        times=GridTimes(grid, LandClean(), settings.skipping_steps),
        coupling=follow_teacher(settings),
    )
    return replace(
        objective,
        timestep_scaling=settings.timestep_scaling_factor,
        simulation=simulation(settings),
    )


def simulation(settings: LcmSettings) -> Played | None:
    """The points that inference comes past, or None where no sample begins there."""
    share, warmup = settings.simulated_play, settings.simulated_play_warmup_steps
    return Played(share, warmup) if share > 0 else None


def play(settings: LcmSettings) -> Play:
    """`LCMScheduler` on the grid of training."""
    return lcm_play(settings.num_ddim_timesteps, settings.timestep_scaling_factor)


METHOD = Method(LcmSettings(), build, play, lands_clean=True)
