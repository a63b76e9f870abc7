"""Weights lambda of the loss between landing points, one number per sample."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lcm.diffusion.schedule import NoiseSchedule
from lcm.diffusion.times import Times

Weight = Callable[[NoiseSchedule, Times, float | None], Tensor]
"""(schedule, times, snr_gamma) -> [B] float32; min_snr alone needs the gamma. SNR = alpha_t^2 /
sigma_t^2.

A squared distance between clean landing points is tau_t^2 times one between predictions of epsilon:
0.02 at t = 19 and 214 at t = 999 in Stable Diffusion. That is the implicit weight these weights
change.
"""


def uniform(schedule: NoiseSchedule, times: Times, snr_gamma: float | None) -> Tensor:
    """1: the distance between landing points counts as it is (CM)."""
    return torch.ones_like(times.t, dtype=torch.float32)


def snr(schedule: NoiseSchedule, times: Times, snr_gamma: float | None) -> Tensor:
    """SNR: with l2 and clean landing, the distance between predictions of epsilon."""
    return schedule.tau[times.t] ** -2


def min_snr(schedule: NoiseSchedule, times: Times, snr_gamma: float | None) -> Tensor:
    """min(SNR, gamma) (Hang et al. 2023, Eq. 5, for a loss on x0)."""
    return snr(schedule, times, snr_gamma).clamp(max=snr_gamma)


def velocity(schedule: NoiseSchedule, times: Times, snr_gamma: float | None) -> Tensor:
    """1 / sin^2(phi_t - phi_s): with l2, the distance between predictions of v. Where landing is
    clean, 1 / sigma_t^2 = SNR + 1.
    """
    return schedule.rotation(times.t, times.s)[1].flatten() ** -2


def inverse_dt(schedule: NoiseSchedule, times: Times, snr_gamma: float | None) -> Tensor:
    """1 / (tau_t - tau_u) with tau = sigma / alpha, the noise level of EDM: the finer the step, the
    more it counts (iCT, Table 1).

    On a grid uniform in t the steps in tau are by far the longest at the noisy end. 0 where tau_t
    is infinite.
    """
    return 1.0 / (schedule.tau[times.t] - schedule.tau[times.u])


def alpha_squared(schedule: NoiseSchedule, times: Times, snr_gamma: float | None) -> Tensor:
    """alpha_t^2: with l2, an epsilon network's landing point then moves with its output as CM's
    does, c_out = sigma_t there, where uniform leaves tau_t (14.6 at t = 999).
    """
    return schedule.alphas[times.t].square()


def balanced(schedule: NoiseSchedule, times: Times, snr_gamma: float | None) -> Tensor:
    """The same balance, c_out = sigma_t, for distances that grow linearly, huber and l1, whatever
    the network predicts: alpha_t for epsilon, 1 for v, sigma_t for the sample.
    """
    if schedule.prediction_type == "epsilon":
        return schedule.alphas[times.t]
    if schedule.prediction_type == "sample":
        return schedule.sigmas[times.t]
    return uniform(schedule, times, snr_gamma)


def scm_prior(schedule: NoiseSchedule, times: Times, snr_gamma: float | None) -> Tensor:
    """The velocity weight over tau: with l2, sCM's prior weight 1 / sigma on the distance between
    predictions of v.
    """
    return velocity(schedule, times, snr_gamma) / schedule.tau[times.t]


VANISHING: set[Weight] = {snr, min_snr, inverse_dt, alpha_squared, scm_prior}
"""The weights that are 0 at zero terminal SNR; one from outside is added where it is so."""
