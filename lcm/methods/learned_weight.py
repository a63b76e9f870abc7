"""A weight of the noise level that is learnt beside the network (Karras et al. 2024, Eq. 21; sCM,
Eq. 8).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lcm.diffusion.schedule import NoiseSchedule

WAVES = 16
"""Cosines that w is a sum of: from the whole range of noise levels down to a sixteenth of it."""


class LearnedWeight(nn.Module):
    """w(t) of the loss exp(w(t)) d - w(t), which is smallest where exp(w(t)) = 1 / E[d | t]: every
    noise level then counts alike, however far the student is from its target there.

    w is one layer on a cosine series of the angle phi_t = atan(sigma_t / alpha_t), and 0 at first.
    """

    basis: Tensor

    def __init__(self, schedule: NoiseSchedule) -> None:
        super().__init__()
        waves = torch.arange(WAVES, device=schedule.phi.device)
        self.register_buffer("basis", (2.0 * schedule.phi[:, None] * waves).cos())
        self.coefficients = nn.Parameter(torch.zeros(WAVES, device=schedule.phi.device))

    def forward(self, distance: Tensor, t: Tensor) -> Tensor:
        """The loss of every sample, [B], of its distance [B] >= 0 at t [B]."""
        w = self.basis[t] @ self.coefficients
        return w.exp() * distance - w
