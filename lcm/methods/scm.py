"""Continuous-time consistency (Lu & Song 2025): the transport equation df/dt - t S df/dx = 0 as a
tangent target.

No grid: the student moves against the drift of its landing point along the teacher's trajectory.
The loss is l2 on the v-prediction (`velocity` weight), as in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from lcm.adapter.recipe import Play
from lcm.diffusion.levels import Draw, LogNormal, evenly
from lcm.diffusion.losses import Loss
from lcm.diffusion.schedule import NoiseSchedule
from lcm.diffusion.times import LandClean, Landing, TangentTimes
from lcm.methods.learned_weight import LearnedWeight
from lcm.methods.method import Method, compose, follow_teacher, lcm_play
from lcm.methods.objective import Objective
from lcm.methods.settings import DistillationSettings
from lcm.methods.tangent import Tangent

PLAY_STEPS = 50
"""The grid of play, which stock `LCMScheduler` and ComfyUI assume: every timestep is trained."""


@dataclass(frozen=True)
class ScmSettings(DistillationSettings):
    """How the derivative along the trajectory is taken, faded in and normalised, and how often
    each noise level is trained.
    """

    loss_type: str = "l2"
    target: str = "online"
    weighting: str = "velocity"
    tangent_mode: str = "fd"
    tangent_step: int = 5
    tangent_warmup: float = 0.1
    tangent_normalization: float = 0.1
    time_distribution: str = "uniform"
    lognormal_mean: float = -1.0
    lognormal_std: float = 1.4
    learned_weight: bool = False
    adversarial_real: str = "images"

    @property
    def follows_progress(self) -> bool:
        """The derivative term fades in."""
        return self.tangent_warmup > 0 or super().follows_progress


def build(settings: ScmSettings, schedule: NoiseSchedule, loss: Loss) -> Objective:
    """sCM, Eq. 8; w_phi, its learned weight, where the settings have one."""
    return continuous(settings, schedule, loss, LandClean(), phases=1)


def continuous(
    settings: ScmSettings, schedule: NoiseSchedule, loss: Loss, landing: Landing, phases: int
) -> Objective:
    """The loss of the tangent of the points where `landing` lands."""
    draw: Draw = evenly
    if settings.time_distribution == "lognormal":
        draw = LogNormal(schedule, settings.lognormal_mean, settings.lognormal_std)
    # forward mode knows no step
    step = 1 if settings.tangent_mode == "jvp" else settings.tangent_step
    objective = compose(
        settings,
        schedule,
        loss,
        times=TangentTimes(schedule.num_train_timesteps, step, landing, draw),
        coupling=follow_teacher(settings),
        target=Tangent(
            settings.tangent_mode,
            settings.tangent_warmup,
            settings.tangent_normalization,
            phases,
        ),
    )
    learned = LearnedWeight(schedule) if settings.learned_weight else None
    return replace(objective, learned_weight=learned)


def play(settings: ScmSettings) -> Play:
    """`LCMScheduler` on its own grid."""
    return lcm_play(PLAY_STEPS)


METHOD = Method(ScmSettings(), build, play, lands_clean=True, compares="direction")
