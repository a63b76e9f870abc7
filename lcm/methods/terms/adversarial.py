"""An adversarial term in latent space: heads on features of the frozen teacher tell the student's
landing points from those of its target, or from images, once noise was added to both (PCM, section
3.3; LADD, Sauer et al. 2024).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lcm.diffusion.schedule import CLEAN, NoiseSchedule
from lcm.methods.context import Draws, Landed, Numbers
from lcm.methods.settings import Settings
from lcm.methods.terms.term import Parts, TermKind, at_once

HIDDEN = 64
"""Channels of a head."""
GROUPS = 16
"""Most groups of channels that are normalised together."""
SEED = 0
"""Of the heads' first values, which are the same in every run."""


class Heads(nn.Module):
    """A head for each block of features: [B, C, H, W] -> one number for every position."""

    def __init__(self, channels: Sequence[int], device: torch.device | str) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            heads = [
                nn.Sequential(
                    nn.GroupNorm(math.gcd(GROUPS, width), width),
                    nn.Conv2d(width, HIDDEN, 3, padding=1),
                    nn.SiLU(),
                    nn.Conv2d(HIDDEN, 1, 1),
                )
                for width in channels
            ]
        self.heads = nn.ModuleList(heads).to(device)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The answers of every head, [B, H W] each, float32."""
        pairs = zip(self.heads, features, strict=True)
        return [head(part.float()).flatten(1) for head, part in pairs]


def mean(parts: Sequence[Tensor]) -> Tensor:
    """[B, n] of every head -> [B], all heads alike."""
    return torch.stack([part.mean(1) for part in parts]).mean(0)


@dataclass(frozen=True)
class HeadsCritic:
    """The hinge loss of the heads: E relu(1 - D(real)) + E relu(1 + D(student)), and r1 / 2 times
    the squared gradient of D to the features of what is real (Mescheder et al. 2018).

    `real` is "target", the landing point that the student's is compared with, or "images".
    """

    schedule: NoiseSchedule
    heads: Heads
    real: str
    r1: float
    name: str = "heads"
    is_second: bool = False
    numbers: Numbers = Numbers(1, 1)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Those of the heads."""
        return list(self.heads.parameters())

    def __call__(self, landed: Landed, draws: Draws) -> Tensor:
        s, (t, noise) = landed.context.times.s, self.times(landed, draws)
        real, of_real = landed.target, s
        if self.real == "images":
            real, of_real = landed.context.batch.x0, torch.full_like(s, CLEAN)
        with torch.no_grad():
            true = self.features(landed, real, of_real, t, noise)
            made = self.features(landed, landed.point, s, t, noise)
        if self.r1 > 0:
            true = [part.requires_grad_() for part in true]
        answers = self.heads(true)
        loss = mean([F.relu(1.0 - part) for part in answers])
        loss = loss + mean([F.relu(1.0 + part) for part in self.heads(made)])
        if self.r1 > 0:
            slopes = torch.autograd.grad(mean(answers).sum(), true, create_graph=True)
            steep = torch.stack([slope.square().flatten(1).sum(1) for slope in slopes]).sum(0)
            loss = loss + 0.5 * self.r1 * steep
        return loss

    def times(self, landed: Landed, draws: Draws) -> tuple[Tensor, Tensor]:
        """A random time above the landing time, and unit noise."""
        s, last = landed.context.times.s, self.schedule.num_train_timesteps - 1
        return (s + 1 + (draws.uniform() * (last - s)).long()).clamp(max=last), draws.noise()

    def features(
        self, landed: Landed, point: Tensor, s: Tensor, t: Tensor, noise: Tensor
    ) -> list[Tensor]:
        """The teacher's features of a point [B, C, h, w] at time s, noised up to t."""
        x_t = self.schedule.renoise(point, s, noise, t)
        context = landed.context
        seen = context.nets.features(x_t, t, context.batch.cond, None)
        return [part.float() for part in seen]


@dataclass(frozen=True)
class Adversarial:
    """-E D(student): what the heads say of the student's landing point."""

    weight: float
    critic: HeadsCritic
    name: str = "adversarial"
    start: float = 0.0
    numbers: Numbers = Numbers(1, 1)

    def __call__(self, landed: Landed, draws: Draws) -> Tensor:
        critic, s = self.critic, landed.context.times.s
        t, noise = critic.times(landed, draws)

        def measure(point: Tensor) -> Tensor:
            return -mean(critic.heads(critic.features(landed, point, s, t, noise)))

        return at_once(landed.point, measure)


def build(settings: Settings, schedule: NoiseSchedule, weight: float, parts: Parts) -> Adversarial:
    """Heads on every block of the way down and on the middle one."""
    heads = Heads(parts.channels, parts.device)
    critic = HeadsCritic(schedule, heads, settings.adversarial_real, settings.adversarial_r1)
    return Adversarial(weight, critic)


TERM = TermKind(
    build,
    weight=0.1,
    flags=("adversarial_real", "adversarial_r1"),
    has_critic=True,
    needs=lambda settings: "point" if settings.adversarial_real == "target" else "",
    reads_pictures=lambda settings: settings.adversarial_real == "images",
)
