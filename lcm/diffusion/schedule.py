"""The noise schedule x_t = alpha_t x0 + sigma_t eps: the only place that knows epsilon,
v_prediction and sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lcm.diffusion.prediction_types import PREDICTION_TYPES

CLEAN = -1
"""The time of clean data, alpha 1 and sigma 0: one step below timestep 0, whose alpha_bar is
0.99915 in Stable Diffusion.
"""


class Prediction(NamedTuple):
    """A network's view of x_t, both parts [B, C, H, W] float32 with x_t = alpha_t x0 + sigma_t
    eps.
    """

    x0: Tensor
    eps: Tensor


@dataclass(frozen=True)
class NoiseSchedule:
    """alpha_t = sqrt(alpha_bar_t) and sigma_t = sqrt(1 - alpha_bar_t) for t = 0..T-1, and the clean
    end at t = CLEAN.

    `alphas` and `sigmas` are [T + 1] float32; the last entry is the clean end, so that index -1
    finds it. Every method computes in float32 whatever comes in: at t = 999 a rounding of x0 weighs
    14.6 times (1 / alpha_t). Times are int64, [B] or scalar, in [-1, T).
    """

    alphas: Tensor
    sigmas: Tensor
    prediction_type: str

    @classmethod
    def from_alphas_cumprod(cls, alphas_cumprod: Tensor, prediction_type: str) -> NoiseSchedule:
        """The schedule of alpha_bar [T]. Raises ValueError for an unknown prediction type, or
        epsilon with zero terminal SNR.
        """
        if prediction_type not in PREDICTION_TYPES:
            raise ValueError(
                f"prediction_type must be one of {', '.join(PREDICTION_TYPES)}; got "
                f"{prediction_type!r}"
            )
        alpha_bar = torch.cat([alphas_cumprod.detach().float().cpu(), torch.ones(1)])
        schedule = cls(alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt(), prediction_type)
        if prediction_type == "epsilon" and schedule.has_zero_terminal_snr:
            raise ValueError(
                "an epsilon model cannot have zero terminal SNR: at the last timestep x_t is pure "
                "noise and epsilon says nothing about the image. Use the teacher's own scheduler "
                "without rescale_betas_zero_snr, or a v_prediction teacher"
            )
        return schedule

    @classmethod
    def from_scheduler(cls, scheduler: Any) -> NoiseSchedule:
        """The schedule of any diffusers scheduler that has `alphas_cumprod`."""
        return cls.from_alphas_cumprod(scheduler.alphas_cumprod, scheduler.config.prediction_type)

    @property
    def num_train_timesteps(self) -> int:
        return len(self.alphas) - 1

    @property
    def has_zero_terminal_snr(self) -> bool:
        """Whether x_t of the last timestep is pure noise."""
        return float(self.alphas.square().min()) < 1e-6

    @property
    def tau(self) -> Tensor:
        """sigma / alpha [T + 1], 0 at the clean end: the noise level of EDM. Infinite at zero
        terminal SNR.
        """
        return self.sigmas / self.alphas

    @property
    def phi(self) -> Tensor:
        """atan2(sigma, alpha) [T + 1], in [0, pi / 2]: the angle in which the process is a rotation
        (TrigFlow).
        """
        return torch.atan2(self.sigmas, self.alphas)

    def to(self, device: torch.device | str) -> NoiseSchedule:
        return NoiseSchedule(self.alphas.to(device), self.sigmas.to(device), self.prediction_type)

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha_t and sigma_t shaped [B, 1, 1, 1], to multiply latents with."""
        return self.alphas[t].view(-1, 1, 1, 1), self.sigmas[t].view(-1, 1, 1, 1)

    def rotation(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine of phi_t - phi_s, [B, 1, 1, 1]: alpha_t and sigma_t where s is CLEAN. A
        jump from t to s is cos x_t - sin v.
        """
        (alpha_t, sigma_t), (alpha_s, sigma_s) = self.alpha_sigma(t), self.alpha_sigma(s)
        return alpha_t * alpha_s + sigma_t * sigma_s, sigma_t * alpha_s - alpha_t * sigma_s

    def angle(self, t: Tensor, s: Tensor) -> Tensor:
        """phi_t - phi_s, [B, 1, 1, 1]."""
        return (self.phi[t] - self.phi[s]).view(-1, 1, 1, 1)

    def add_noise(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """x_t = alpha_t x0 + sigma_t eps, float32."""
        return self.jump(Prediction(x0.float(), eps.float()), t)

    def predict(self, output: Tensor, x_t: Tensor, t: Tensor) -> Prediction:
        """Splits a raw network output [B, C, H, W] into (x0, eps). v = alpha eps - sigma x0
        (Salimans & Ho 2022, App. D).
        """
        return self.split(output.float(), x_t.float(), *self.alpha_sigma(t))

    def split(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Prediction:
        """`predict` for given alpha and sigma, which may then be differentiated."""
        if self.prediction_type == "epsilon":
            return Prediction((x_t - sigma * output) / alpha, output)
        if self.prediction_type == "v_prediction":
            return Prediction(alpha * x_t - sigma * output, alpha * output + sigma * x_t)
        return Prediction(output, (x_t - alpha * output) / sigma)

    def jump(self, prediction: Prediction, s: Tensor) -> Tensor:
        """alpha_s x0 + sigma_s eps: one DDIM step (eta 0), and one Euler step in sigma / alpha,
        from t to s.
        """
        alpha, sigma = self.alpha_sigma(s)
        return alpha * prediction.x0 + sigma * prediction.eps

    def output_of(self, prediction: Prediction, t: Tensor) -> Tensor:
        """The raw network output that stands for (x0, eps) at t: the inverse of `predict`."""
        if self.prediction_type == "epsilon":
            return prediction.eps
        if self.prediction_type == "v_prediction":
            alpha, sigma = self.alpha_sigma(t)
            return alpha * prediction.eps - sigma * prediction.x0
        return prediction.x0

    def renoise(self, x_s: Tensor, s: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """x_t of x_s and unit noise, s <= t, by the process itself: (alpha_t / alpha_s) x_s +
        sqrt(sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2) eps; `add_noise` where s is CLEAN.
        """
        (alpha_s, sigma_s), (alpha_t, sigma_t) = self.alpha_sigma(s), self.alpha_sigma(t)
        ratio = alpha_t / alpha_s
        added = (sigma_t.square() - (ratio * sigma_s).square()).clamp(min=0.0).sqrt()
        return ratio * x_s.float() + added * eps.float()
