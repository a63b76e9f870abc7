"""Phased consistency (Wang et al. 2024): the trajectory is cut into M phases, each a consistency
model of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from lcm.adapter.recipe import Play
from lcm.diffusion.grid import SolverGrid
from lcm.diffusion.losses import Loss
from lcm.diffusion.schedule import NoiseSchedule
from lcm.diffusion.times import GridTimes, PhaseEdge
from lcm.methods.method import Method, compose, follow_teacher, trailing_play
from lcm.methods.objective import Objective
from lcm.methods.settings import PhaseSettings, TargetSettings


@dataclass(frozen=True)
class PcmSettings(PhaseSettings, TargetSettings):
    """The grid of solver steps. 40, not 50: only then do phase edges, DDIM trailing and
    `LCMScheduler` agree for 1, 2, 4 and 8 phases.
    """

    num_ddim_timesteps: int = 40
    dmd_of: str = "noise"


def build(settings: PcmSettings, schedule: NoiseSchedule, loss: Loss) -> Objective:
    """PCM, Eq. 8: both ends of a solver step land on the edge of their phase.

    Raises ValueError when the phase edges are no grid points.
    """
    grid = SolverGrid(settings.num_ddim_timesteps, schedule.num_train_timesteps)
    return compose(
        settings,
        schedule,
        loss,
        times=GridTimes(grid, PhaseEdge(grid, settings.phases)),
        coupling=follow_teacher(settings),
    )


def play(settings: PcmSettings) -> Play:
    """Deterministically, with `DDIMScheduler` trailing (or Euler trailing) in as many steps as
    there are phases.
    """
    return trailing_play([settings.phases])


METHOD = Method(PcmSettings(), build, play)
