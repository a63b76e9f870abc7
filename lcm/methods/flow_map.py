"""The flow map of the probability-flow ODE between neighbouring inference times, by regression on a
many-step solver.
"""

from __future__ import annotations

from typing import Any, ClassVar

from lcm.diffusion.grid import SolverGrid
from lcm.diffusion.losses import Loss
from lcm.diffusion.schedule import NoiseSchedule
from lcm.diffusion.times import DirectTimes, PhaseEdge
from lcm.methods.config import MethodConfig
from lcm.methods.method import LOSS, TEACHER, Method, Play, check_divides, parts, trailing_play
from lcm.methods.objective import Objective
from lcm.methods.parts import regress


class FlowMap(Method):
    """f(x_{t_{n+1}}, t_{n+1} -> t_n) is regressed onto x_{t_n}, the end of `solver_steps` solver
    steps (Salimans & Ho 2022 with all stages in one). With `--coupling same_noise` x_{t_n} is the
    same image and noise, which teaches nothing: refused.
    """

    defaults: ClassVar[dict[str, Any]] = {
        **LOSS,
        **TEACHER,
        "loss_type": "l2",
        "phases": 4,
        "solver_steps": 8,
        "coupling": "solver",
        "guidance_per_phase": None,
    }

    def build(
        self, config: MethodConfig, schedule: NoiseSchedule, loss: Loss | None = None
    ) -> Objective:
        """Raises ValueError for phases that do not divide the timesteps."""
        phases = int(config.phases or 1)
        check_divides("phases", phases, schedule)
        grid = SolverGrid(phases, schedule.num_train_timesteps)
        return Objective(
            times=DirectTimes(grid, PhaseEdge(grid, phases)),
            timestep_scaling=None,
            **{**parts(config, schedule, loss), "target": regress},
        )

    def play(self, config: MethodConfig) -> Play:
        return trailing_play([int(config.phases or 0)])


METHOD = FlowMap()
