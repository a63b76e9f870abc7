"""A perceptual distance without weights from outside: how far apart the frozen teacher's own
features of the two landing points are (LPIPS, Zhang et al. 2018, in latent space; its random
augmentations are those of E-LatentLPIPS, Kang et al. 2024).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lcm.diffusion.grid import which_of
from lcm.diffusion.schedule import NoiseSchedule
from lcm.methods.context import Draws, Landed, Numbers
from lcm.methods.settings import Settings
from lcm.methods.terms.augment import UNIFORMS, augmentation
from lcm.methods.terms.term import Parts, TermKind, at_once


@dataclass(frozen=True)
class LatentPerceptual:
    """Sum over the first `depth` blocks of the mean over positions of |a / |a| - b / |b||^2, with a
    and b the features of the student's landing point and of its target, noised alike and seen
    through one random augmentation.

    Times come from the lower half of the schedule, where a picture is still seen.
    """

    schedule: NoiseSchedule
    weight: float
    depth: int
    name: str = "latent_perceptual"
    start: float = 0.0
    numbers: Numbers = Numbers(1, 1 + UNIFORMS)
    critic: None = None

    def __call__(self, landed: Landed, draws: Draws) -> Tensor:
        context, schedule = landed.context, self.schedule
        t = which_of(schedule.num_train_timesteps // 2, draws.uniform())
        noise = draws.noise()
        change = augmentation([draws.uniform() for _ in range(UNIFORMS)])

        def features(point: Tensor) -> list[Tensor]:
            x_t = schedule.add_noise(change(point), noise, t)
            return context.nets.features(x_t, t, context.batch.cond, self.depth)

        with torch.no_grad():
            wanted = [directions(part) for part in features(landed.target)]

        def measure(point: Tensor) -> Tensor:
            parts = zip(features(point), wanted, strict=True)
            apart = [(directions(a) - b).square().sum(1).flatten(1).mean(1) for a, b in parts]
            return torch.stack(apart).sum(0)

        return at_once(landed.point, measure)


def directions(features: Tensor) -> Tensor:
    """Features [B, C, H, W] of unit length at every position, float32."""
    return torch.nn.functional.normalize(features.float(), dim=1, eps=1e-6)


def build(
    settings: Settings, schedule: NoiseSchedule, weight: float, parts: Parts
) -> LatentPerceptual:
    """The first half of the blocks on the way down: cheap, and all that LPIPS is made of."""
    return LatentPerceptual(schedule, weight, max(1, len(parts.channels) // 2))


TERM = TermKind(build, weight=1.0, needs=lambda settings: "pair")
