"""A stochastic flow f = F0 + G0 N(0, 1), trained on SDE couplings with a proper scoring rule.
Experimental.

The student sees x_t + kappa sigma_t z, so its landing point is random: to first order F0 + G0 z,
with G0 kappa sigma_t times the network's Jacobian. A G0 of its own would need outputs that no
adapter has, and a diagonal one could not say that neighbouring pixels err together.

The coupling x_t -> x_u is a step of the reverse SDE, and the law of f at x_t must be that of f at
x_u: the energy score compares laws. Its sampler is
`lcm.diffusion.sampling.sample_stochastic_flow`; a stock scheduler plays z = 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from lcm.adapter.recipe import Play
from lcm.diffusion.grid import SolverGrid
from lcm.diffusion.losses import Loss
from lcm.diffusion.schedule import NoiseSchedule
from lcm.diffusion.times import GridTimes, LandClean
from lcm.methods.method import Method, compose, couple, lcm_play
from lcm.methods.objective import Objective
from lcm.methods.settings import DistillationSettings


@dataclass(frozen=True)
class StochasticFlowSettings(DistillationSettings):
    """The grid, the random step on it, and the noise that makes the student's answer random."""

    num_ddim_timesteps: int = 50
    loss_type: str = "energy"
    target: str = "online"
    coupling: str = "sde"
    injection: float = 0.5


def build(settings: StochasticFlowSettings, schedule: NoiseSchedule, loss: Loss) -> Objective:
    """Two draws of the student against one of the target, all landing clean.

    Raises ValueError for a loss that is no proper scoring rule.
    """
    grid = SolverGrid(settings.num_ddim_timesteps, schedule.num_train_timesteps)
    return compose(
        settings,
        schedule,
        loss,
        times=GridTimes(grid, LandClean()),
        coupling=couple(settings.coupling, settings),
        injection=settings.injection,
    )


def play(settings: StochasticFlowSettings) -> Play:
    """`LCMScheduler` on the grid of training; the injected noise is for this package's sampler."""
    return replace(lcm_play(settings.num_ddim_timesteps), injection=settings.injection)


METHOD = Method(StochasticFlowSettings(), build, play, experimental=True)
