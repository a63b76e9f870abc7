"""Heun's method in tau = sigma / alpha, order 2 (EDM, Algorithm 1, written for x = alpha (x0 + tau
eps)).
"""

from __future__ import annotations

import torch
from torch import Tensor

from lcm.diffusion.schedule import CLEAN, NoiseSchedule
from lcm.diffusion.solvers.base import Predict


def heun(predict: Predict, schedule: NoiseSchedule, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """x_s with the mean of eps at both ends of the step; two evaluations.

    d(x/alpha)/dtau = eps, so the Euler step gains alpha_s (tau_s - tau_t) (eps_s - eps_t) / 2.
    Where that is undefined, at s = CLEAN (no network) and at zero terminal SNR (tau_t infinite),
    the Euler step itself is kept, as in EDM.
    """
    here = predict(x_t, t)
    euler = schedule.jump(here, s)
    there = predict(euler, s.clamp(min=0))
    (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule.alpha_sigma(t), schedule.alpha_sigma(s)
    correction = 0.5 * (sigma_s - alpha_s * sigma_t / alpha_t) * (there.eps - here.eps)
    no_second_order = (s == CLEAN).view(-1, 1, 1, 1) | (alpha_t == 0)
    return torch.where(no_second_order, euler, euler + correction)
