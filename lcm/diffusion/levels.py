"""How often each step between times is trained: evenly, or by a law of the noise level."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lcm.diffusion.grid import which_of
from lcm.diffusion.schedule import NoiseSchedule

Draw = Callable[[Tensor, Tensor], Tensor]
"""(uniform [B] in [0, 1), edges [N + 1] int64 times, ascending from CLEAN) -> which of the N steps
between neighbouring edges, [B] int64.
"""

SIGMA_DATA = 0.5
"""The standard deviation of data in EDM, whose noise levels papers give. That of latents is 1, so
the noise level of EDM is half of tau = sigma / alpha here.
"""


def evenly(uniform: Tensor, edges: Tensor) -> Tensor:
    """Every step equally likely."""
    return which_of(len(edges) - 1, uniform)


@dataclass(frozen=True)
class LogNormal:
    """A step as likely as a log-normal law of noise levels has it between its edges, ln(sigma) ~
    N(mean, std^2) in EDM's levels; what lies above the last edge goes to all steps (iCT, Eq. 10).

    By the inverse of the distribution function: nothing random but `uniform` itself. With zero
    terminal SNR the very last step, to an infinite level, is hardly ever drawn.
    """

    schedule: NoiseSchedule
    mean: float = -1.1
    std: float = 2.0

    def __call__(self, uniform: Tensor, edges: Tensor) -> Tensor:
        levels = self.schedule.tau[edges] * SIGMA_DATA  # 0 at CLEAN, infinite at zero terminal SNR
        below = torch.special.ndtr((levels.log() - self.mean) / self.std)
        index = torch.searchsorted(below, uniform * below[-1], right=True) - 1
        return index.clamp(max=len(edges) - 2)
