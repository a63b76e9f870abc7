"""DPM-Solver++ 2M: order 2 with one evaluation a step, by remembering the last one (Lu et al.
2022b, Algorithm 2).
"""

from __future__ import annotations

import torch
from torch import Tensor

from lcm.diffusion.schedule import CLEAN, NoiseSchedule
from lcm.diffusion.solvers.base import Predict, Remembering, Solver


def remember_one() -> Solver:
    """A solver that has made no step yet. Its step is x_s = (sigma_s / sigma_t) x_t + (alpha_s -
    alpha_t sigma_s / sigma_t) D with D = x0 + (h / 2 h') (x0 - x0').

    h and h' are this step and the one before in lambda = log(alpha / sigma). D is x0, which makes
    the step DDIM's, in the first step, in the last one to CLEAN, where h is infinite, and after
    zero terminal SNR, where h' is.
    """
    lambda_before: Tensor | None = None
    x0_before: Tensor | None = None

    def step(
        predict: Predict, schedule: NoiseSchedule, x_t: Tensor, t: Tensor, s: Tensor
    ) -> Tensor:
        nonlocal lambda_before, x0_before
        here, log_snr = predict(x_t, t), -schedule.tau.log()
        x_s = schedule.jump(here, s)
        if lambda_before is not None and x0_before is not None:
            ratio = (log_snr[s] - log_snr[t]) / (2.0 * (log_snr[t] - lambda_before))
            usable = (s != CLEAN) & ratio.isfinite() & (ratio > 0)
            ratio = torch.where(usable, ratio, torch.zeros_like(ratio)).view(-1, 1, 1, 1)
            alpha_t, sigma_t = schedule.alpha_sigma(t)
            alpha_s, sigma_s = schedule.alpha_sigma(s)
            x_s = x_s + (alpha_s - alpha_t * sigma_s / sigma_t) * ratio * (here.x0 - x0_before)
        lambda_before, x0_before = log_snr[t], here.x0
        return x_s

    return step


dpm_solver_pp_2m = Remembering(remember_one)
