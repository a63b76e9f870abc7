"""Latent consistency distillation (Luo et al. 2023): skipping steps, guidance in the solver, clean
landing.
"""

from __future__ import annotations

from typing import Any, ClassVar

from lcm.diffusion.consistency import TIMESTEP_SCALING
from lcm.diffusion.grid import SolverGrid
from lcm.diffusion.losses import Loss
from lcm.diffusion.schedule import NoiseSchedule
from lcm.diffusion.times import GridTimes, LandClean
from lcm.methods.config import MethodConfig
from lcm.methods.method import COMMON, Method, Play, lcm_play, parts
from lcm.methods.objective import Objective


class LatentConsistency(Method):
    """Plays with `LCMScheduler` on the grid it was trained on."""

    lands_clean = True
    defaults: ClassVar[dict[str, Any]] = {
        **COMMON,
        "num_ddim_timesteps": 50,
        "timestep_scaling_factor": TIMESTEP_SCALING,
    }

    def build(
        self, config: MethodConfig, schedule: NoiseSchedule, loss: Loss | None = None
    ) -> Objective:
        """The loss of LCM, Eq. 14, on the grid of `config`."""
        grid = SolverGrid(int(config.num_ddim_timesteps or 0), schedule.num_train_timesteps)
        return Objective(
            times=GridTimes(grid, LandClean()),
            timestep_scaling=config.timestep_scaling_factor,
            **parts(config, schedule, loss),
        )

    def play(self, config: MethodConfig) -> Play:
        return lcm_play(config)


METHOD = LatentConsistency()
