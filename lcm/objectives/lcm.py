"""Latent consistency distillation (Luo et al. 2023): skipping steps, guidance in the solver, clean landing."""

from __future__ import annotations

from lcm.grid import SolverGrid
from lcm.losses import LOSSES
from lcm.objectives.base import Objective, ObjectiveConfig
from lcm.schedule import NoiseSchedule
from lcm.solvers import SOLVERS


class LatentConsistency:
    """Plays with `LCMScheduler` on the grid it was trained on."""

    def build(self, config: ObjectiveConfig, schedule: NoiseSchedule) -> Objective:
        """The loss of LCM, Eq. 14, on the grid of `config`."""
        return Objective(
            schedule=schedule,
            grid=SolverGrid(config.num_ddim_timesteps, schedule.num_train_timesteps),
            solver=SOLVERS[config.solver],
            loss=LOSSES[config.loss_type],
            guidance_range=config.guidance_range,
            huber_c=config.huber_c,
            timestep_scaling=config.timestep_scaling_factor,
        )

    def play(self, config: ObjectiveConfig) -> tuple[str, dict[str, object]]:
        return "LCMScheduler", {
            "original_inference_steps": config.num_ddim_timesteps,
            "timestep_scaling": config.timestep_scaling_factor,
        }
