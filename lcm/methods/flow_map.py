"""The flow map of the probability-flow ODE between neighbouring inference times, by regression on a
many-step solver.

f(x_{t_{n+1}}, t_{n+1} -> t_n) is regressed onto x_{t_n}, the end of `solver_steps` solver steps
(Salimans & Ho 2022 with all stages in one). With `--coupling same_noise` x_{t_n} is the same image
and noise, which teaches nothing: refused.
"""

from __future__ import annotations

from dataclasses import dataclass

from lcm.adapter.recipe import Play
from lcm.diffusion.grid import SolverGrid
from lcm.diffusion.losses import Loss
from lcm.diffusion.schedule import NoiseSchedule
from lcm.diffusion.times import DirectTimes, PhaseEdge
from lcm.methods.method import Method, check_divides, compose, couple, trailing_play
from lcm.methods.objective import Objective
from lcm.methods.parts import regress
from lcm.methods.settings import PhaseSettings


@dataclass(frozen=True)
class FlowMapSettings(PhaseSettings):
    """How the end of a phase follows from its beginning: many steps of the solver."""

    loss_type: str = "l2"
    solver_steps: int = 8
    coupling: str = "solver"
    dmd_of: str = "noise"


def build(settings: FlowMapSettings, schedule: NoiseSchedule, loss: Loss) -> Objective:
    """x_u itself is the target at u. Raises ValueError for phases that do not divide the
    timesteps.
    """
    check_divides("phases", settings.phases, schedule)
    grid = SolverGrid(settings.phases, schedule.num_train_timesteps)
    return compose(
        settings,
        schedule,
        loss,
        times=DirectTimes(grid, PhaseEdge(grid, settings.phases)),
        coupling=couple(settings.coupling, settings),
        target=regress,
    )


def play(settings: FlowMapSettings) -> Play:
    """`DDIMScheduler` trailing in as many steps as there are phases."""
    return trailing_play([settings.phases])


METHOD = Method(FlowMapSettings(), build, play)
