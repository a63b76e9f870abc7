"""Trajectory segmented consistency (Hyper-SD, Ren et al. 2024): segments merged 8 -> 4 -> 2 -> 1 in
one run.
"""

from __future__ import annotations

from typing import Any, ClassVar

from lcm.diffusion.grid import SolverGrid
from lcm.diffusion.losses import Loss
from lcm.diffusion.schedule import NoiseSchedule
from lcm.diffusion.times import GridTimes, WithinSegment
from lcm.methods.config import MethodConfig
from lcm.methods.method import COMMON, Method, Play, parts
from lcm.methods.objective import Objective


class SegmentedTrajectoryConsistency(Method):
    """Lands anywhere between the segment's edge and u. Plays with `TCDScheduler`, or DDIM trailing.

    A step of play must not cross an edge of the last segments, so their number divides that of the
    steps.
    """

    defaults: ClassVar[dict[str, Any]] = {
        **COMMON,
        "num_ddim_timesteps": 40,
        "segments": [8, 4, 2, 1],
        "loss_type": "l2",
        "eta": 0.0,
    }

    def build(
        self, config: MethodConfig, schedule: NoiseSchedule, loss: Loss | None = None
    ) -> Objective:
        """Hyper-SD, Algorithm 1, without its adversarial term.

        Raises ValueError when an edge is no grid point, or would be crossed at play.
        """
        if config.eta and (config.segments or [1])[-1] > 1:
            raise ValueError(
                f"eta={config.eta} lands below the edge of a segment, untrained; let segments end "
                "in 1, or pass --eta 0"
            )
        grid = SolverGrid(int(config.num_ddim_timesteps or 0), schedule.num_train_timesteps)
        return Objective(
            times=GridTimes(grid, WithinSegment(grid, tuple(config.segments or ()))),
            timestep_scaling=None,
            **parts(config, schedule, loss),
        )

    def play(self, config: MethodConfig) -> Play:
        grid, last = int(config.num_ddim_timesteps or 0), (config.segments or [1])[-1]
        steps = [last] + [last * k for k in (2, 4, 8) if last * k <= min(8, grid)]
        return Play(
            "TCDScheduler", {"original_inference_steps": grid}, steps, float(config.eta or 0.0)
        )


METHOD = SegmentedTrajectoryConsistency()
