"""Consistency training: no teacher, pairs of the same image and noise (CM, Algorithm 3; iCT;
ECT).

It starts from the diffusion model itself, as ECT does, or from an adapter (`--init_adapter`: latent
consistency fine-tuning on one's own images). Guidance needs a teacher: an adapter keeps what it
has, a fresh one has none. Its fixed point is that of distillation only on an infinitely fine grid,
hence the growing discretisation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from lcm.adapter.recipe import Play
from lcm.diffusion.consistency import TIMESTEP_SCALING
from lcm.diffusion.levels import Draw, LogNormal, evenly
from lcm.diffusion.losses import Loss
from lcm.diffusion.pairs import EasyTimes, Growth, RefinedTimes, doubling, square_root
from lcm.diffusion.schedule import NoiseSchedule
from lcm.diffusion.times import TimeSampler
from lcm.methods.method import Method, compose, lcm_play
from lcm.methods.objective import Objective
from lcm.methods.parts import FollowPath
from lcm.methods.settings import TargetSettings

PLAY_STEPS = 50
"""The grid of play, which stock `LCMScheduler` and ComfyUI assume."""


GROWTHS: dict[str, Growth] = {"refined": doubling, "cm": square_root}
"""The discretisations whose number of steps grows, and how."""


@dataclass(frozen=True)
class CtSettings(TargetSettings):
    """How the discretisation begins, ends and grows, how often each noise level is trained, and
    the curve of ECT. `ema_schedule` "cm" raises `ema_decay` as the grid is refined.
    """

    target: str = "online"
    num_ddim_timesteps: int = 1000
    first_ddim_timesteps: int = 10
    discretization: str = "refined"
    ect_q: float = 2.0
    ect_k: float = 8.0
    ect_b: float = 1.0
    ect_stages: int = 8
    time_distribution: str = "uniform"
    lognormal_mean: float = -1.1
    lognormal_std: float = 2.0
    ema_schedule: str = "constant"
    timestep_scaling_factor: float = TIMESTEP_SCALING

    @property
    def follows_progress(self) -> bool:
        """Pairs come closer to each other."""
        grows = self.discretization == "ect" or self.discretization in GROWTHS
        return grows or super().follows_progress

    def ema_exponent(self, progress: float) -> float:
        """s_0 / N(k), with which CM's decay is exp(s_0 ln(mu_0) / N(k)), mu_0 being `ema_decay`
        (CM, appendix C); N counts the points of the grid.
        """
        if self.ema_schedule == "constant" or self.discretization not in GROWTHS:
            return 1.0
        first, last = self.first_ddim_timesteps, self.num_ddim_timesteps
        return (first + 1) / (GROWTHS[self.discretization](first, last, progress) + 1)


def build(settings: CtSettings, schedule: NoiseSchedule, loss: Loss) -> Objective:
    """CM, Eq. 10. Raises ValueError when the grid would shrink instead of grow."""
    objective = compose(
        settings, schedule, loss, times=pairs(settings, schedule), coupling=FollowPath()
    )
    return replace(objective, timestep_scaling=settings.timestep_scaling_factor)


def pairs(settings: CtSettings, schedule: NoiseSchedule) -> TimeSampler:
    """The times of training pairs by the discretisation. Raises ValueError for a grid whose last
    refinement samplers would not visit, or that does not grow.
    """
    first, last = settings.first_ddim_timesteps, settings.num_ddim_timesteps
    total = schedule.num_train_timesteps
    draw: Draw = evenly
    if settings.time_distribution == "lognormal":
        draw = LogNormal(schedule, settings.lognormal_mean, settings.lognormal_std)
    if settings.discretization == "ect":
        curve = settings.ect_q, settings.ect_k, settings.ect_b
        return EasyTimes(schedule, settings.ect_stages, *curve, draw)
    if not is_visited(last, total):
        fitting = [n for n in range(1, total + 1) if is_visited(n, total)]
        raise ValueError(
            f"num_ddim_timesteps={last}: samplers would visit times between those of the last "
            f"grid; use one of {fitting}"
        )
    if settings.discretization == "fixed":
        return RefinedTimes(last, last, total, draw=draw)
    if not 1 <= first <= last <= total:
        raise ValueError(
            f"first_ddim_timesteps={first} must lie in 1..num_ddim_timesteps ({last}), the end "
            "of the refinement"
        )
    return RefinedTimes(first, last, total, GROWTHS[settings.discretization], draw)


def is_visited(num_steps: int, total: int) -> bool:
    """Whether a sampler on the grid of play meets only times of a grid of `num_steps` steps."""
    return total % num_steps == 0 and (num_steps <= PLAY_STEPS or num_steps % PLAY_STEPS == 0)


def play(settings: CtSettings) -> Play:
    """The sampler on 50 steps, the grid that everybody assumes: every timestep is trained, or will
    be.
    """
    num_steps = min(PLAY_STEPS, settings.num_ddim_timesteps)
    return lcm_play(num_steps, settings.timestep_scaling_factor)


METHOD = Method(CtSettings(), build, play, lands_clean=True)
