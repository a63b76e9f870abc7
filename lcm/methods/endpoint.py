"""Direct regression onto the endpoint of the teacher's own trajectory (knowledge distillation,
Luhman & Luhman 2021).
"""

from __future__ import annotations

from typing import Any, ClassVar

from lcm.diffusion.grid import SolverGrid
from lcm.diffusion.losses import Loss
from lcm.diffusion.schedule import NoiseSchedule
from lcm.diffusion.times import DirectTimes, LandClean
from lcm.methods.config import MethodConfig
from lcm.methods.method import LOSS, TEACHER, Method, Play, check_divides, parts, trailing_play
from lcm.methods.objective import Objective, Path
from lcm.methods.parts import FollowPath, OnTrajectory, regress


class Endpoint(Method):
    """From any point of a cached trajectory straight to its end: no target network, no bootstrap,
    prompts instead of images.

    The teacher is asked only while the cache is made, with `solver_steps` steps of `solver` between
    neighbouring grid points. Plays deterministically, by DDIM through the clean landing point: the
    noise that `LCMScheduler` adds on its way leads away from the trajectories seen in training.
    """

    defaults: ClassVar[dict[str, Any]] = {
        **LOSS,
        **TEACHER,
        "num_ddim_timesteps": 40,
        "loss_type": "l2",
    }
    keeps = "all"
    lands_clean = True

    def build(
        self, config: MethodConfig, schedule: NoiseSchedule, loss: Loss | None = None
    ) -> Objective:
        """Raises ValueError for a grid that DDIM trailing cannot start on."""
        num_steps = int(config.num_ddim_timesteps or 0)
        check_divides("num_ddim_timesteps", num_steps, schedule)
        grid = SolverGrid(num_steps, schedule.num_train_timesteps)
        return Objective(
            times=DirectTimes(grid, LandClean()),
            timestep_scaling=None,
            **{
                **parts(config, schedule, loss),
                "path": self.path(grid),
                "coupling": FollowPath(),
                "target": regress,
            },
        )

    def path(self, grid: SolverGrid) -> Path:
        return OnTrajectory(grid)

    def play(self, config: MethodConfig) -> Play:
        return trailing_play(
            [n for n in (1, 2, 4, 8) if int(config.num_ddim_timesteps or 0) % n == 0]
        )


METHOD = Endpoint()
