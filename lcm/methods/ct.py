"""Consistency training: no teacher, pairs of the same image and noise (CM, Algorithm 3; iCT;
ECT).
"""

from __future__ import annotations

from typing import Any, ClassVar

from lcm.diffusion.consistency import TIMESTEP_SCALING
from lcm.diffusion.losses import Loss
from lcm.diffusion.schedule import NoiseSchedule
from lcm.diffusion.times import EasyTimes, RefinedTimes, TimeSampler
from lcm.methods.config import MethodConfig
from lcm.methods.method import LOSS, TARGET, Method, Play, lcm_play, parts
from lcm.methods.objective import Objective
from lcm.methods.parts import FollowPath

PLAY_STEPS = 50
"""The grid of play, which stock `LCMScheduler` and ComfyUI assume."""


class ConsistencyTraining(Method):
    """Starts from the diffusion model itself, as ECT does, or from an adapter (`--init_adapter`:
    latent consistency fine-tuning on one's own images). Guidance needs a teacher: an adapter keeps
    what it has, a fresh one has none.

    Its fixed point is that of distillation only on an infinitely fine grid, hence the growing
    discretisation.
    """

    lands_clean = True
    defaults: ClassVar[dict[str, Any]] = {
        **LOSS,
        **TARGET,
        "num_ddim_timesteps": 1000,
        "first_ddim_timesteps": 10,
        "discretization": "refined",
        "timestep_scaling_factor": TIMESTEP_SCALING,
    }

    def build(
        self, config: MethodConfig, schedule: NoiseSchedule, loss: Loss | None = None
    ) -> Objective:
        """Raises ValueError when the grid would shrink instead of grow."""
        return Objective(
            times=self.times(config, schedule),
            timestep_scaling=config.timestep_scaling_factor,
            **{**parts(config, schedule, loss), "coupling": FollowPath()},
        )

    def times(self, config: MethodConfig, schedule: NoiseSchedule) -> TimeSampler:
        first, last = int(config.first_ddim_timesteps or 0), int(config.num_ddim_timesteps or 0)
        if config.discretization == "ect":
            return EasyTimes(schedule)
        total, play = schedule.num_train_timesteps, PLAY_STEPS
        if total % last or (last > play and last % play):
            fitting = [
                n for n in range(1, total + 1) if total % n == 0 and (n <= play or n % play == 0)
            ]
            raise ValueError(
                f"num_ddim_timesteps={last}: samplers would visit times between those of the last "
                f"grid; use one of {fitting}"
            )
        if config.discretization == "fixed":
            return RefinedTimes(last, last, schedule.num_train_timesteps)
        if not 1 <= first <= last <= schedule.num_train_timesteps:
            raise ValueError(
                f"first_ddim_timesteps={first} must lie in 1..num_ddim_timesteps ({last}), the end "
                "of the refinement"
            )
        return RefinedTimes(first, last, schedule.num_train_timesteps)

    def play(self, config: MethodConfig) -> Play:
        """On 50 steps, the grid that everybody assumes: every timestep is trained, or will be."""
        return lcm_play(config, min(PLAY_STEPS, int(config.num_ddim_timesteps or PLAY_STEPS)))


METHOD = ConsistencyTraining()
