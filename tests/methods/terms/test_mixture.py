"""On data with a closed form: where score distillation leads, and where regression does."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from lcm.diffusion.losses import l2
from lcm.diffusion.schedule import NoiseSchedule
from lcm.methods.context import LatentBatch
from lcm.methods.objective import Objective, at_landing
from lcm.models.conditioning import Conditioning
from tests.support.closed_forms import make_objective
from tests.support.schedules import make_schedule

WEIGHTS = torch.tensor([0.65, 0.35])
MEANS = torch.tensor([-0.8, 1.0])
VARIANCES = torch.tensor([0.16, 0.09])
SIZE, PLACES = 256, 64


class Mixture:
    """Two Gaussians on a line."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        self.schedule = schedule

    def sample(self, size: int) -> Tensor:
        which = torch.multinomial(WEIGHTS, size, replacement=True)
        return MEANS[which] + VARIANCES[which].sqrt() * torch.randn(size)

    def denoised(self, x: Tensor, t: Tensor) -> Tensor:
        """E[x0 | x_t] of x [B, 1]."""
        alpha, sigma = self.schedule.alphas[t][:, None], self.schedule.sigmas[t][:, None]
        noised = alpha**2 * VARIANCES + sigma**2
        apart = x - alpha * MEANS
        share = (WEIGHTS.log() - noised.log() / 2 - apart**2 / (2 * noised)).softmax(1)
        return (share * (MEANS + alpha * VARIANCES / noised * apart)).sum(1, keepdim=True)


class MixtureRoles:
    """The exact teacher; a student that makes one of `PLACES` numbers of the noise, in their order,
    at first about the noise itself; and a second network that begins as the teacher and learns a
    correction. Latents are [B, 1, 1, 1], what is said is v.
    """

    def __init__(self, schedule: NoiseSchedule) -> None:
        self.mixture = Mixture(schedule)
        places = torch.special.ndtri((torch.arange(PLACES) + 0.5) / PLACES)
        self.numbers = nn.Parameter(places[:, None])
        last = nn.Linear(64, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.apart = nn.Sequential(nn.Linear(5, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), last)

    def made(self, noise: Tensor) -> Tensor:
        """What the student makes of [B, 1] in a step."""
        place = (PLACES * torch.special.ndtr(noise[:, 0])).long().clamp(max=PLACES - 1)
        return self.numbers[place]

    def teacher(self, x_t: Tensor, t: Tensor, conditioning: Any) -> Tensor:
        alpha, sigma = self.mixture.schedule.alpha_sigma(t)
        x0 = self.mixture.denoised(x_t.flatten(1), t).view_as(x_t)
        return (alpha * x_t - x0) / sigma

    def student(self, x_t: Tensor, t: Tensor, conditioning: Any) -> Tensor:
        return -self.made(x_t.flatten(1)).view_as(x_t)

    target = student

    def second(self, x_t: Tensor, t: Tensor, conditioning: Any) -> Tensor:
        phi = self.mixture.schedule.phi[t][:, None]
        seen = torch.cat(
            [x_t.flatten(1), phi.cos(), phi.sin(), (4 * phi).cos(), (4 * phi).sin()], 1
        )
        return self.teacher(x_t, t, conditioning) + self.apart(seen).view_as(x_t)

    def features(self, x_t: Tensor, t: Tensor, conditioning: Any, depth: int | None) -> Any:
        raise NotImplementedError


def batch_of(nets: MixtureRoles, objective: Objective) -> LatentBatch:
    """Noises, and points of the data that have nothing to do with them."""
    noises, uniforms = objective.extra_numbers
    said = Conditioning(torch.zeros(SIZE, 1, 1))
    return LatentBatch(
        x0=nets.mixture.sample(SIZE).view(SIZE, 1, 1, 1),
        noise=torch.randn(SIZE, 1, 1, 1),
        uniform_time=torch.rand(SIZE),
        uniform_guidance=torch.rand(SIZE),
        uniform_landing=torch.rand(SIZE),
        cond=said,
        uncond=said,
        extra_noise=torch.randn(SIZE, noises, 1, 1, 1),
        extra_uniform=torch.rand(SIZE, uniforms),
    )


def learn(nets: MixtureRoles, objective: Objective, updates: int) -> Tensor:
    """Trains the student, and the second network where there is a critic, as a run does. Returns
    what the student makes of noise, [8000].
    """
    student = torch.optim.Adam([nets.numbers], 2e-2)
    second = torch.optim.Adam(nets.apart.parameters(), 1e-2)

    def falling(update: int) -> float:
        return (1 + math.cos(math.pi * update / updates)) / 2

    moved = (student, second) if objective.critics else (student,)
    rates = [torch.optim.lr_scheduler.LambdaLR(each, falling) for each in moved]
    for _ in range(updates):
        output = objective(nets, batch_of(nets, objective))
        step(student, output.loss)
        for number in range(objective.critic_updates if objective.critics else 0):
            assert output.landed is not None
            step(second, objective.critic_losses(output.landed, number)["fake_score"])
        for rate in rates:
            rate.step()
    with torch.no_grad():
        made: Tensor = nets.made(torch.randn(8000, 1))
    return made[:, 0]


def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.mean().backward()
    optimizer.step()


@pytest.fixture
def nets() -> MixtureRoles:
    torch.manual_seed(0)
    return MixtureRoles(make_schedule("v_prediction", zero_snr=True))


class Moments(NamedTuple):
    """Of the points in one cell."""

    weight: float
    mean: float
    variance: float


def moments(points: Tensor) -> list[Moments]:
    """Of the cells of points [n] that lie nearest to each of MEANS."""
    nearest = (points[:, None] - MEANS).abs().argmin(1)
    cells = [points[nearest == mode] for mode in range(len(MEANS))]
    return [Moments(len(own) / len(points), float(own.mean()), float(own.var())) for own in cells]


def one_step(nets: MixtureRoles, **flags: Any) -> Objective:
    schedule = nets.mixture.schedule
    return make_objective(
        "dmd",
        schedule,
        terms=["dmd"],
        dmd_steps=[1],
        first_timestep=999,
        guidance_scale=1.0,
        **flags,
    )


def test_score_distillation_converges_to_the_mixture(nets: MixtureRoles) -> None:
    """Cell by cell of what is nearest to each mean."""
    made = moments(learn(nets, one_step(nets, critic_updates=3), 450))
    for found, expected in zip(made, moments(nets.mixture.sample(20000)), strict=True):
        assert found.weight == pytest.approx(expected.weight, abs=0.05)
        assert found.mean == pytest.approx(expected.mean, abs=0.1)
        assert found.variance == pytest.approx(expected.variance, abs=0.06)


def test_regression_of_unrelated_pairs_collapses_to_the_mean(nets: MixtureRoles) -> None:
    objective = dataclasses.replace(one_step(nets), compare=at_landing, loss=l2, terms=())
    made = learn(nets, objective, 250)
    mean = (WEIGHTS * MEANS).sum()
    assert (made - mean).abs().mean() < 0.2
    assert (nets.mixture.sample(1000) - mean).abs().mean() > 0.7
