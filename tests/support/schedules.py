"""Noise schedules, and a fixed network to run on them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from lcm.diffusion.schedule import NoiseSchedule, Prediction
from lcm.diffusion.solvers.base import Predict
from lcm.diffusion.tables import SOLVERS

SD_BETAS: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}


MODELS = [
    ("epsilon", False),
    ("v_prediction", False),
    ("sample", False),
    ("v_prediction", True),
    ("sample", True),
]
"""Every prediction type that exists, with (True) and without zero terminal SNR."""


every_solver = pytest.mark.parametrize("name", SOLVERS)


every_model = pytest.mark.parametrize(("prediction_type", "zero_snr"), MODELS)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def stock_ddim(prediction_type: str, zero_snr: bool = False) -> DDIMScheduler:
    """Trailing, unclipped, down to clean data: what the toolkit's own steps are compared with."""
    return DDIMScheduler(
        **SD_BETAS,
        prediction_type=prediction_type,
        rescale_betas_zero_snr=zero_snr,
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
    )


def make_schedule(prediction_type: str = "epsilon", zero_snr: bool = False) -> NoiseSchedule:
    stock = DDIMScheduler(
        **SD_BETAS, prediction_type=prediction_type, rescale_betas_zero_snr=zero_snr
    )
    return NoiseSchedule.from_scheduler(stock)


def network(x: Tensor, t: Tensor) -> Tensor:
    """A fixed random network, tanh of a channel mix plus a function of time, in the dtype of x."""
    mix = randn(4, 4, seed=7).to(x)
    return torch.tanh(
        torch.einsum("ij,bjhw->bihw", mix, x) + torch.cos(t.to(x) / 300.0).view(-1, 1, 1, 1)
    )


def network_of(schedule: NoiseSchedule) -> Predict:
    """The answers of `network`, read as the schedule's prediction type."""

    def predict(x_t: Tensor, t: Tensor) -> Prediction:
        assert (t >= 0).all(), "no network can be asked at the clean end"
        return schedule.predict(network(x_t.float(), t), x_t, t)

    return predict


def float64_schedule(alpha_bar: Tensor) -> NoiseSchedule:
    """The given alpha_bar [T] and the clean end, without the float32 of from_alphas_cumprod."""
    alpha_bar = torch.cat([alpha_bar, torch.ones(1, dtype=torch.float64)])
    return NoiseSchedule(alpha_bar.sqrt(), (1 - alpha_bar).sqrt(), "epsilon")


def stable_diffusion_schedule() -> NoiseSchedule:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return float64_schedule(torch.cumprod(1 - betas, 0))
