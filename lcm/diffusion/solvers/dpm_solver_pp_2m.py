"""DPM-Solver++ 2M: order 2 with one evaluation a step, by remembering the last one (Lu et al.
2022b, Algorithm 2).
"""

from __future__ import annotations

import torch
from torch import Tensor

from lcm.diffusion.schedule import CLEAN, NoiseSchedule
from lcm.diffusion.solvers.base import Predict, Solver


class DpmSolverPP2M:
    """A single step has nothing to remember and is DDIM's; `fresh` gives a solver that remembers
    within one pair.
    """

    def __call__(
        self, predict: Predict, schedule: NoiseSchedule, x_t: Tensor, t: Tensor, s: Tensor
    ) -> Tensor:
        return schedule.jump(predict(x_t, t), s)

    def fresh(self) -> Solver:
        """x_s = (sigma_s / sigma_t) x_t + (alpha_s - alpha_t sigma_s / sigma_t) D, D = x0 + (h / 2
        h') (x0 - x0').

        h and h' are this step and the one before in lambda = log(alpha / sigma). D is x0 in the
        first step, in the last one to CLEAN, where h is infinite, and after zero terminal SNR,
        where h' is.
        """
        memory: list[tuple[Tensor, Tensor]] = []

        def step(
            predict: Predict, schedule: NoiseSchedule, x_t: Tensor, t: Tensor, s: Tensor
        ) -> Tensor:
            here = predict(x_t, t)
            first_order = schedule.jump(here, s)
            log_snr = -schedule.tau.log()
            if not memory:
                memory.append((log_snr[t], here.x0))
                return first_order
            lambda_before, x0_before = memory.pop()
            memory.append((log_snr[t], here.x0))
            ratio = (log_snr[s] - log_snr[t]) / (2.0 * (log_snr[t] - lambda_before))
            usable = (s != CLEAN) & ratio.isfinite() & (ratio > 0)
            ratio = torch.where(usable, ratio, torch.zeros_like(ratio)).view(-1, 1, 1, 1)
            (alpha_t, sigma_t), (alpha_s, sigma_s) = (
                schedule.alpha_sigma(t),
                schedule.alpha_sigma(s),
            )
            return first_order + (alpha_s - alpha_t * sigma_s / sigma_t) * ratio * (
                here.x0 - x0_before
            )

        return step


dpm_solver_pp_2m = DpmSolverPP2M()
