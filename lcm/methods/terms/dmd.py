"""Distribution matching distillation (Yin et al. 2024; DMD2): the landing point is moved along the
difference of two scores at a noised time, that of the teacher and that of a second network which
follows what the student makes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lcm.diffusion.consistency import land
from lcm.diffusion.grid import which_of
from lcm.diffusion.schedule import CLEAN, NoiseSchedule, Prediction
from lcm.methods.context import Draws, Landed, Numbers
from lcm.methods.settings import Settings
from lcm.methods.terms.term import Parts, TermKind

LOWEST, HIGHEST = 0.02, 0.98
"""Share of the timesteps between which the scores are compared (DMD, section 3.2)."""


@dataclass(frozen=True)
class FakeScore:
    """The denoising loss of the second network on what the student made: the mean squared error of
    its raw output, as the teacher was trained (DMD, Eq. 6).
    """

    schedule: NoiseSchedule
    name: str = "fake_score"
    is_second: bool = True
    numbers: Numbers = Numbers(1, 1)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """None but the second network's."""
        return []

    def __call__(self, landed: Landed, draws: Draws) -> Tensor:
        schedule, context = self.schedule, landed.context
        t, noise = which_of(schedule.num_train_timesteps, draws.uniform()), draws.noise()
        point = landed.point_for(self.name)
        x_t = schedule.add_noise(point, noise, t)
        wanted = schedule.output_of(Prediction(point, noise), t)
        output = context.nets.second(x_t, t, context.batch.cond)
        return (output - wanted).square().flatten(1).mean(1)


@dataclass(frozen=True)
class ScoreDistillation:
    """|x - stop(x - g)|^2 / 2, mean over the numbers of a sample, whose gradient is that of DMD: g
    = (x0_fake - x0_teacher) / mean |x - x0_teacher|, both seen from x noised to a random time (DMD,
    Eq. 7 and 8).

    x is the landing point or, where it is `of_noise`, what the student makes of pure noise in one
    step, by a pass of its own: so that methods which land on noisy latents have it too.
    """

    schedule: NoiseSchedule
    weight: float
    start: float
    of_noise: bool
    critic: FakeScore
    name: str = "dmd"

    @property
    def numbers(self) -> Numbers:
        """One noise for the time of the scores, one to begin with."""
        return Numbers(2 if self.of_noise else 1, 1)

    def __call__(self, landed: Landed, draws: Draws) -> Tensor:
        point = landed.point
        if self.of_noise:
            point = self.one_step(landed, draws.noise())
            landed.others[self.critic.name] = point.detach()
        t, noise = self.times(draws.uniform()), draws.noise()
        with torch.no_grad():
            moved = point - self.direction(landed, point, t, noise)
        return 0.5 * (point - moved).square().flatten(1).mean(1)

    def one_step(self, landed: Landed, noise: Tensor) -> Tensor:
        """Where the student lands from pure noise at the last timestep, with gradients."""
        context, schedule = landed.context, self.schedule
        t = torch.full_like(context.times.t, schedule.num_train_timesteps - 1)
        output = context.nets.student(noise, t, context.cond)
        return land(schedule, output, noise, t, torch.full_like(t, CLEAN), timestep_scaling=None)

    def times(self, uniform: Tensor) -> Tensor:
        """Uniform numbers [B] -> timesteps [B] at which the scores are compared."""
        total = self.schedule.num_train_timesteps
        low, high = int(LOWEST * total), int(HIGHEST * total)
        return low + which_of(high - low, uniform)

    def direction(self, landed: Landed, point: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """g, shaped like the point."""
        schedule, context = self.schedule, landed.context
        x_t = schedule.add_noise(point, noise, t)
        teacher = context.predict(x_t, t).x0
        fake = schedule.predict(context.nets.second(x_t, t, context.batch.cond), x_t, t).x0
        size = (point - teacher).abs().flatten(1).mean(1).clamp(min=1e-6)
        return (fake - teacher) / size.view(-1, 1, 1, 1)


def build(
    settings: Settings, schedule: NoiseSchedule, weight: float, parts: Parts
) -> ScoreDistillation:
    """With a fake score of its own."""
    return ScoreDistillation(
        schedule, weight, settings.dmd_start, settings.dmd_of == "noise", FakeScore(schedule)
    )


TERM = TermKind(
    build,
    weight=1.0,
    flags=("dmd_of", "dmd_start"),
    has_critic=True,
    needs=lambda settings: "clean" if settings.dmd_of == "landing" else "",
)
