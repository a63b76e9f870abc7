"""The pairs of consistency training: neighbours on a grid that is refined over the run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lcm.diffusion.levels import SIGMA_DATA, Draw, evenly
from lcm.diffusion.schedule import CLEAN, NoiseSchedule
from lcm.diffusion.times import Times

Growth = Callable[[int, int, float], int]
"""(first, last, progress in [0, 1)) -> N, the number of steps of the grid."""


def doubling(first: int, last: int, progress: float) -> int:
    """N doubles from `first` to `last`, in equal shares of the run (iCT, Eq. 9)."""
    stages = [first]
    while stages[-1] < last:
        stages.append(min(2 * stages[-1], last))
    return stages[min(int(progress * len(stages)), len(stages) - 1)]


def square_root(first: int, last: int, progress: float) -> int:
    """ceil(sqrt(p ((last + 1)^2 - (first + 1)^2) + (first + 1)^2) - 1) steps, that is between N(k)
    points (CM, appendix C, with s_0 = first + 1 points and s_1 = last).
    """
    low, high = (first + 1) ** 2, (last + 1) ** 2
    return math.ceil(math.sqrt(progress * (high - low) + low) - 1)


@dataclass(frozen=True)
class RefinedTimes:
    """Neighbours on a grid of N steps that grows over the run, from `first` to `last`.

    Grid points are round(i T / N) - 1. With first = last the grid is fixed.
    """

    first: int
    last: int
    num_train_timesteps: int
    growth: Growth = doubling
    draw: Draw = evenly
    direct: bool = False

    def num_steps(self, progress: float) -> int:
        """N at this progress."""
        return self.growth(self.first, self.last, progress)

    def __call__(self, uniform: Tensor, uniform_landing: Tensor, progress: float) -> Times:
        n = self.num_steps(progress)
        width = self.num_train_timesteps / n
        edges = (torch.arange(n + 1, device=uniform.device) * width).round().long() - 1
        index = self.draw(uniform, edges)
        t, u = edges[index + 1], edges[index]
        return Times(t, u, torch.full_like(t, CLEAN))


@dataclass(frozen=True)
class EasyTimes:
    """ECT's pairs: tau_u / tau_t = 1 - (1 + k sigmoid(-b sigma_t)) / q^(stage + 1), tau = sigma /
    alpha, and sigma_t the noise level of EDM, half of tau_t (ECT, Eq. 10 and 11).

    The first of the `stages` is nearly diffusion training (u far below t), the last nearly
    continuous. t is any timestep; u is the timestep whose tau is at or below the wanted one, CLEAN
    below all of them.
    """

    schedule: NoiseSchedule
    stages: int = 8
    q: float = 2.0
    k: float = 8.0
    b: float = 1.0
    draw: Draw = evenly
    direct: bool = False

    def __call__(self, uniform: Tensor, uniform_landing: Tensor, progress: float) -> Times:
        total = self.schedule.num_train_timesteps
        tau = self.schedule.tau[:total]
        t = self.draw(uniform, torch.arange(-1, total, device=uniform.device))
        stage = min(int(progress * self.stages), self.stages - 1)
        easing = 1.0 + self.k * torch.sigmoid(-self.b * SIGMA_DATA * tau[t])
        ratio = (1.0 - easing / self.q ** (stage + 1)).clamp(min=0.0)
        # 0 times infinity, at zero terminal SNR, is the image itself too
        wanted = torch.where(ratio > 0, tau[t] * ratio, 0.0)
        u = torch.searchsorted(tau, wanted, right=True) - 1
        u = torch.minimum(u, t - 1)
        return Times(t, u, torch.full_like(t, CLEAN))
