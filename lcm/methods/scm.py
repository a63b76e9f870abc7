"""Continuous-time consistency (Lu & Song 2025): the transport equation df/dt - t S df/dx = 0 as a
tangent target.
"""

from __future__ import annotations

from typing import Any, ClassVar

from lcm.diffusion.losses import Loss
from lcm.diffusion.schedule import NoiseSchedule
from lcm.diffusion.times import TangentTimes
from lcm.methods.config import MethodConfig
from lcm.methods.method import COMMON, Method, Play, lcm_play, parts
from lcm.methods.objective import Objective
from lcm.methods.parts import Tangent


class ContinuousConsistency(Method):
    """No grid: the student moves against the drift of its landing point along the teacher's
    trajectory.

    The loss is l2 on the v-prediction (`velocity` weight), as in the paper. Plays with
    `LCMScheduler`.
    """

    defaults: ClassVar[dict[str, Any]] = {
        **COMMON,
        "loss_type": "l2",
        "weighting": "velocity",
        "tangent_mode": "fd",
        "tangent_step": 5,
        "tangent_warmup": 0.1,
        "tangent_normalization": 0.1,
    }

    def build(
        self, config: MethodConfig, schedule: NoiseSchedule, loss: Loss | None = None
    ) -> Objective:
        """sCM, Eq. 8, without its learned weight."""
        target = Tangent(
            str(config.tangent_mode),
            float(config.tangent_warmup or 0.0),
            config.tangent_normalization,
        )
        return Objective(
            times=TangentTimes(schedule.num_train_timesteps, int(config.tangent_step or 1)),
            timestep_scaling=None,
            **{**parts(config, schedule, loss), "target": target},
        )

    def play(self, config: MethodConfig) -> Play:
        return lcm_play(config, 50)


METHOD = ContinuousConsistency()
