"""Phased consistency (Wang et al. 2024): the trajectory is cut into M phases, each a consistency
model of its own.
"""

from __future__ import annotations

from typing import Any, ClassVar

from lcm.diffusion.grid import SolverGrid
from lcm.diffusion.losses import Loss
from lcm.diffusion.schedule import NoiseSchedule
from lcm.diffusion.times import GridTimes, PhaseEdge
from lcm.methods.config import MethodConfig
from lcm.methods.method import COMMON, Method, Play, parts, trailing_play
from lcm.methods.objective import Objective


class PhasedConsistency(Method):
    """Plays deterministically with `DDIMScheduler` trailing (or Euler trailing) in as many steps as
    there are phases.

    40 solver steps, not 50: only then do phase edges, DDIM trailing and `LCMScheduler` agree for 1,
    2, 4 and 8 phases.
    """

    defaults: ClassVar[dict[str, Any]] = {
        **COMMON,
        "num_ddim_timesteps": 40,
        "phases": 4,
        "guidance_per_phase": None,
    }

    def build(
        self, config: MethodConfig, schedule: NoiseSchedule, loss: Loss | None = None
    ) -> Objective:
        """PCM, Eq. 8. Raises ValueError when the phase edges are no grid points."""
        grid = SolverGrid(int(config.num_ddim_timesteps or 0), schedule.num_train_timesteps)
        return Objective(
            times=GridTimes(grid, PhaseEdge(grid, int(config.phases or 0))),
            timestep_scaling=None,
            **parts(config, schedule, loss),
        )

    def play(self, config: MethodConfig) -> Play:
        return trailing_play([int(config.phases or 0)])


METHOD = PhasedConsistency()
