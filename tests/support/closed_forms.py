"""Teachers and students with a closed form, in any parametrisation, and batches for every method in
METHODS.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lcm.diffusion.schedule import NoiseSchedule, Prediction
from lcm.diffusion.solvers.base import Predict
from lcm.methods.build import build_objective
from lcm.methods.config import MethodConfig, resolved
from lcm.methods.context import LatentBatch
from lcm.methods.objective import Objective
from lcm.methods.terms.term import Parts
from lcm.models.conditioning import Conditioning
from tests.support.schedules import make_schedule

UNIFORMS = [0.985, 0.52, 0.03, 0.7, 0.25, 0.9]
PARTS = Parts(channels=(8, 16, 16))
"""What terms are built of for the tiny U-Nets of `worlds`, and for `GaussianRoles`."""


def make_objective(
    name: str, schedule: NoiseSchedule | None = None, parts: Parts = PARTS, **flags: Any
) -> Objective:
    config = resolved(MethodConfig(objective=name, **flags))
    return build_objective(config, schedule or make_schedule(), parts=parts)


def make_batch(
    size: int = 6, *, side: int = 4, width: int = 16, pooled: int | None = None, seed: int = 0
) -> LatentBatch:
    """Serves every method and term: with extra numbers, and a trajectory on the default grid whose
    points are unrelated.
    """
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def conditioning() -> Conditioning:
        if pooled is None:
            return Conditioning(randn(size, 3, width))
        return Conditioning(randn(size, 3, width), randn(size, pooled), torch.full((size, 6), 16.0))

    return LatentBatch(
        x0=randn(size, 4, side, side),
        noise=randn(size, 4, side, side),
        uniform_time=torch.tensor(UNIFORMS).repeat(size // 6 + 1)[:size],
        uniform_guidance=torch.linspace(0, 0.99, size),
        uniform_landing=torch.linspace(0.97, 0.1, size),
        cond=conditioning(),
        uncond=conditioning(),
        trajectory=randn(size, 41, 4, side, side),
        extra_noise=torch.cat([randn(size, 4, 4, side, side), randn(size, 12, 4, side, side)], 1),
        extra_uniform=torch.rand(size, 24, generator=generator),
        prompts=tuple(f"prompt {i}" for i in range(size)),
    )


def batch_for(unet: Any, size: int = 6) -> LatentBatch:
    """A batch of the sizes that a tiny U-Net takes."""
    pooled = None if unet.config.addition_embed_type is None else 16
    return make_batch(size, side=8, width=unet.config.cross_attention_dim, pooled=pooled)


def rows(batch: LatentBatch, index: Tensor) -> LatentBatch:
    """The samples at `index`, in that order."""

    def pick(part: Any) -> Any:
        return (
            None
            if part is None
            else part.map(lambda p: p[index])
            if isinstance(part, Conditioning)
            else tuple(part[i] for i in index.tolist())
            if isinstance(part, tuple)
            else part[index]
        )

    return LatentBatch(**{f.name: pick(getattr(batch, f.name)) for f in dataclasses.fields(batch)})


def seen_by_the_loss(
    objective: Objective, nets: Any, batch: LatentBatch, progress: float = 0.5
) -> tuple[Tensor, Tensor]:
    """The landing point of the student and its target."""
    seen: list[Tensor] = []

    def probe(landed: Tensor, target: Tensor, huber_c: float | None) -> Tensor:
        seen.extend([landed, target])
        return landed.new_zeros(len(landed))

    dataclasses.replace(objective, loss=probe, is_control=True)(nets, batch, progress)
    return seen[0], seen[1]


class GaussianRoles:
    """The exact denoiser for data N(m, std^2) as teacher, `strength` times a smooth bump on top of
    it as student, another one as second network, and smooth functions of x_t and t as features.

    m is the mean of the prompt embeddings, so that guidance does something. All is computed in
    float64 as the v-prediction F(x, phi) and told in the schedule's parametrisation. Between
    timesteps phi(t) is the line through both neighbours, which makes the answers differentiable in
    a real t.
    """

    def __init__(self, schedule: NoiseSchedule, std: float = 0.7, strength: float = 0.3) -> None:
        self.schedule = schedule
        self.std = std
        self.strength = torch.tensor(strength, dtype=torch.float64)

    def angle(self, t: Tensor) -> Tensor:
        phi, last = self.schedule.phi.double(), self.schedule.num_train_timesteps - 1
        t = t.clamp(min=0)
        index = t.detach().round().long()
        above, under = (index + 1).clamp(max=last), (index - 1).clamp(min=0)
        return phi[index] + (t - index) * (phi[above] - phi[under]) / (above - under)

    def velocity(self, x: Tensor, phi: Tensor, conditioning: Conditioning) -> Tensor:
        """F of the teacher, for x float64 and phi that broadcasts."""
        mean = conditioning.prompt_embeds.double().mean((1, 2)).view(-1, 1, 1, 1)
        cos, sin = phi.cos(), phi.sin()
        score = (x - cos * mean) / (cos**2 * self.std**2 + sin**2)
        x0, eps = mean + cos * self.std**2 * score, sin * score
        return cos * eps - sin * x0

    def bump(self, x: Tensor, phi: Tensor) -> Tensor:
        return torch.tanh(0.7 * x + torch.cos(3.0 * phi))

    def tell(self, velocity: Tensor, x: Tensor, phi: Tensor) -> Tensor:
        if self.schedule.prediction_type == "epsilon":
            velocity = phi.cos() * velocity + phi.sin() * x
        elif self.schedule.prediction_type == "sample":
            velocity = phi.cos() * x - phi.sin() * velocity
        return velocity.float()

    def teacher(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        x, phi = x_t.double(), self.angle(t).view(-1, 1, 1, 1)
        return self.tell(self.velocity(x, phi, conditioning), x, phi)

    def student(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        x, phi = x_t.double(), self.angle(t).view(-1, 1, 1, 1)
        return self.tell(
            self.velocity(x, phi, conditioning) + self.strength * self.bump(x, phi), x, phi
        )

    target = student

    def second(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        x, phi = x_t.double(), self.angle(t).view(-1, 1, 1, 1)
        bump = self.bump(2.0 * x, phi)
        return self.tell(self.velocity(x, phi, conditioning) + 0.2 * bump, x, phi)

    def features(
        self, x_t: Tensor, t: Tensor, conditioning: Conditioning, depth: int | None
    ) -> list[Tensor]:
        phi, number = self.angle(t).view(-1, 1, 1, 1).float(), x_t.shape[1]
        parts = []
        for i, width in enumerate(PARTS.channels[:depth]):
            mix = torch.linspace(-1.0, 1.0, width * number).view(width, number) * (i + 1)
            parts.append(torch.einsum("wc,bcij->bwij", mix.sin(), x_t).add(phi).tanh())
        return parts


def gaussian_teacher(schedule: NoiseSchedule, std: float) -> Predict:
    """The exact posterior means for data x0 ~ N(0, std^2), whatever the dtype of the schedule."""

    def predict(x_t: Tensor, t: Tensor) -> Prediction:
        alpha, sigma = schedule.alpha_sigma(t)
        variance = alpha**2 * std**2 + sigma**2
        return Prediction(alpha * std**2 * x_t / variance, sigma * x_t / variance)

    return predict


def exact_solution(schedule: NoiseSchedule, std: float, x_t: float, t: int, s: int) -> float:
    """x / alpha grows along the probability-flow ODE as sqrt(std^2 + tau^2)."""
    alphas, sigmas = schedule.alphas.numpy(), schedule.sigmas.numpy()
    tau_t, tau_s = sigmas[t] / alphas[t], sigmas[s] / alphas[s]
    return float(alphas[s] * x_t / alphas[t] * np.sqrt((std**2 + tau_s**2) / (std**2 + tau_t**2)))
