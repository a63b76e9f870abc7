"""Trajectory consistency (Zheng et al. 2024) with target-set landing times (TDD, Wang et al.
2024).

The landing time is not told to the network (no stock pipeline could), so one prediction must serve
all s below t: this is an approximation, which a narrow target set makes better.
"""

from __future__ import annotations

from dataclasses import dataclass

from lcm.adapter.recipe import Play
from lcm.diffusion.grid import SolverGrid
from lcm.diffusion.losses import Loss
from lcm.diffusion.schedule import NoiseSchedule
from lcm.diffusion.times import GridTimes, Landing, TargetSet, WithinSegment
from lcm.methods.method import Method, anywhere_play, compose, follow_teacher
from lcm.methods.objective import Objective
from lcm.methods.settings import DistillationSettings


@dataclass(frozen=True)
class TcdSettings(DistillationSettings):
    """The grid of solver steps, and where on it to land: on the times that samplers of
    `landing_steps` steps visit, moved down by up to the share `landing_jitter`, and within
    `landing_window` timesteps of the nearest. Empty `landing_steps` land anywhere below, as the TCD
    paper does.
    """

    num_ddim_timesteps: int = 50
    landing_steps: tuple[int, ...] = (4, 5, 6, 7, 8)
    landing_jitter: float = 0.3
    landing_window: int = 1000
    eta: float = 0.3
    dmd_of: str = "noise"


def build(settings: TcdSettings, schedule: NoiseSchedule, loss: Loss) -> Objective:
    """TCD, Eq. 13: both ends of a solver step land at the same drawn time below."""
    grid = SolverGrid(settings.num_ddim_timesteps, schedule.num_train_timesteps)
    return compose(
        settings,
        schedule,
        loss,
        times=GridTimes(grid, landing(settings, grid)),
        coupling=follow_teacher(settings),
    )


def landing(settings: TcdSettings, grid: SolverGrid) -> Landing:
    """The landing times that the settings ask for."""
    if not settings.landing_steps:
        return WithinSegment(grid, (1,))
    return TargetSet(grid, settings.landing_steps, settings.landing_jitter, settings.landing_window)


def play(settings: TcdSettings) -> Play:
    """`TCDScheduler`, whose eta is the stochasticity gamma: land at (1 - gamma) of the next time,
    add noise up to it. Without any, DDIM trailing where the times are the same.
    """
    grid = settings.num_ddim_timesteps
    steps = sorted(settings.landing_steps or {min(n, grid) for n in (2, 4, 8)})
    return anywhere_play(grid, steps, settings.eta)


METHOD = Method(TcdSettings(), build, play)
