"""Trajectory consistency (Zheng et al. 2024) with target-set landing times (TDD, Wang et al.
2024).
"""

from __future__ import annotations

from typing import Any, ClassVar

from lcm.diffusion.grid import SolverGrid
from lcm.diffusion.losses import Loss
from lcm.diffusion.schedule import NoiseSchedule
from lcm.diffusion.times import GridTimes, Landing, TargetSet, WithinSegment
from lcm.methods.config import MethodConfig
from lcm.methods.method import COMMON, Method, Play, parts
from lcm.methods.objective import Objective


class TrajectoryConsistency(Method):
    """Plays with `TCDScheduler`, whose eta is the stochasticity gamma: land at (1 - gamma) of the
    next time, add noise up to it.

    The landing time is not told to the network (no stock pipeline could), so one prediction must
    serve all s below t: this is an approximation, which a narrow target set makes better.
    `landing_steps` empty lands anywhere below, as the TCD paper does.
    """

    defaults: ClassVar[dict[str, Any]] = {
        **COMMON,
        "num_ddim_timesteps": 50,
        "landing_steps": [4, 5, 6, 7, 8],
        "landing_jitter": 0.3,
        "eta": 0.3,
    }

    def build(
        self, config: MethodConfig, schedule: NoiseSchedule, loss: Loss | None = None
    ) -> Objective:
        """TCD, Eq. 13."""
        grid = SolverGrid(int(config.num_ddim_timesteps or 0), schedule.num_train_timesteps)
        return Objective(
            times=GridTimes(grid, self.landing(config, grid)),
            timestep_scaling=None,
            **parts(config, schedule, loss),
        )

    def landing(self, config: MethodConfig, grid: SolverGrid) -> Landing:
        if not config.landing_steps:
            return WithinSegment(grid, (1,))
        return TargetSet(grid, tuple(config.landing_steps), float(config.landing_jitter or 0.0))

    def play(self, config: MethodConfig) -> Play:
        grid = int(config.num_ddim_timesteps or 0)
        steps = sorted(config.landing_steps or {min(n, grid) for n in (2, 4, 8)})
        return Play(
            "TCDScheduler", {"original_inference_steps": grid}, steps, float(config.eta or 0.0)
        )


METHOD = TrajectoryConsistency()
