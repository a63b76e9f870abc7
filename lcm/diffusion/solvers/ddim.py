"""DDIM with eta 0, order 1: the same step as Euler in sigma / alpha."""

from __future__ import annotations

from torch import Tensor

from lcm.diffusion.schedule import NoiseSchedule
from lcm.diffusion.solvers.base import Predict


def ddim(predict: Predict, schedule: NoiseSchedule, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """alpha_s x0 + sigma_s eps with the prediction at x_t (DDIM, Eq. 12)."""
    return schedule.jump(predict(x_t, t), s)
