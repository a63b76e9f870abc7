"""A stochastic flow f = F0 + G0 N(0, 1), trained on SDE couplings with a proper scoring rule.
Experimental.
"""

from __future__ import annotations

from typing import Any, ClassVar

from lcm.diffusion.grid import SolverGrid
from lcm.diffusion.losses import Loss
from lcm.diffusion.schedule import NoiseSchedule
from lcm.diffusion.times import GridTimes, LandClean
from lcm.methods.config import MethodConfig
from lcm.methods.method import COMMON, Method, Play, lcm_play, parts
from lcm.methods.objective import Objective


class StochasticFlow(Method):
    """The student sees x_t + kappa sigma_t z, so its landing point is random: to first order F0 +
    G0 z, with G0 kappa sigma_t times the network's Jacobian. A G0 of its own would need outputs
    that no adapter has, and a diagonal one could not say that neighbouring pixels err together.

    The coupling x_t -> x_u is a step of the reverse SDE, and the law of f at x_t must be that of f
    at x_u: the energy score compares laws. Its sampler is
    `lcm.diffusion.sampling.sample_stochastic_flow`; a stock scheduler plays z = 0.
    """

    defaults: ClassVar[dict[str, Any]] = {
        **COMMON,
        "num_ddim_timesteps": 50,
        "loss_type": "energy",
        "coupling": "sde",
        "injection": 0.5,
    }
    experimental = True

    def build(
        self, config: MethodConfig, schedule: NoiseSchedule, loss: Loss | None = None
    ) -> Objective:
        """Raises ValueError for a loss that is no proper scoring rule."""
        grid = SolverGrid(int(config.num_ddim_timesteps or 0), schedule.num_train_timesteps)
        return Objective(
            times=GridTimes(grid, LandClean()),
            timestep_scaling=None,
            **parts(config, schedule, loss),
        )

    def play(self, config: MethodConfig) -> Play:
        return lcm_play(config)


METHOD = StochasticFlow()
