"""What a method's own target leads to when every landing point is its target: the solver's endpoint
map, or something worse.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lcm.diffusion.schedule import CLEAN, NoiseSchedule
from lcm.diffusion.solvers.base import repeated
from lcm.diffusion.tables import SOLVERS
from lcm.methods.context import LatentBatch
from lcm.methods.objective import Objective
from lcm.models.conditioning import Conditioning
from tests.support.closed_forms import make_objective, seen_by_the_loss
from tests.support.schedules import make_schedule

STD, MEAN = 0.6, 0.4


def unconditional(size: int) -> Conditioning:
    return Conditioning(torch.zeros(size, 1, 1))


def denoised_gaussian(x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """E[x0 | x_t] for data N(MEAN, STD^2)."""
    return MEAN + alpha * STD**2 * (x - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2)


def denoised_pair(x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """E[x0 | x_t] for data that is -1 or 1."""
    return torch.tanh(alpha * x / sigma**2)


class Tabulated:
    """A teacher by its denoiser, and a student whose clean landing points from each timestep are
    read from a table.
    """

    def __init__(self, schedule: NoiseSchedule, denoiser: Any, points: Tensor) -> None:
        self.schedule, self.denoiser, self.points = schedule, denoiser, points.double()
        self.landings: dict[int, Tensor] = {}

    def tell(self, x0: Tensor, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self.schedule.alpha_sigma(t)
        return ((alpha * x - x0) / sigma).float()  # v

    def teacher(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        x = x_t.double()
        return self.tell(
            self.denoiser(x, *(part.double() for part in self.schedule.alpha_sigma(t))), x, t
        )

    def student(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Linear between the points of the table; below the first timestep nobody listens."""
        x, time = x_t.double(), int(t[0])
        if time not in self.landings:
            return torch.zeros_like(x_t)
        flat = np.interp(x.flatten().numpy(), self.points.numpy(), self.landings[time].numpy())
        return self.tell(torch.from_numpy(flat).view_as(x), x, t)

    target = student

    def land(self, x: Tensor, t: int) -> Tensor:
        return torch.from_numpy(
            np.interp(x.double().flatten().numpy(), self.points.numpy(), self.landings[t].numpy())
        ).view_as(x)


def batch_at(
    x_t: Tensor, x0: Tensor, t: int, uniform: float, schedule: NoiseSchedule
) -> LatentBatch:
    """Images and noises that meet in x_t [B, 1, 1, n]."""
    noise = (x_t.double() - schedule.alphas[t].double() * x0) / schedule.sigmas[t].double()
    each = torch.full((len(x_t),), uniform)
    said = unconditional(len(x_t))
    return LatentBatch(
        x0.float(), noise.float(), each, torch.zeros_like(each), torch.zeros_like(each), said, said
    )


def sweep(
    objective: Objective, nets: Tabulated, num_steps: int, values: list[float], weigh: Any
) -> None:
    """Consistency spreads from clean upwards: at every grid point the student's landing points
    become the mean of its targets, l2's optimum.

    `values` are the images that may lie behind x_t, `weigh(x, alpha, sigma)` their probabilities
    [len(values), n].
    """
    schedule, x = nets.schedule, nets.points
    objective = dataclasses.replace(objective, timestep_scaling=None)
    for i in range(num_steps):
        uniform = (i + 0.5) / num_steps
        t = int(objective.times(torch.tensor([uniform]), torch.zeros(1), 0.5).t)
        x_t = x.expand(len(values), 1, 1, -1)
        images = torch.tensor(values, dtype=torch.float64).view(-1, 1, 1, 1).expand_as(x_t)
        _, target = seen_by_the_loss(objective, nets, batch_at(x_t, images, t, uniform, schedule))
        weights = weigh(x, schedule.alphas[t].double(), schedule.sigmas[t].double())
        nets.landings[t] = (weights * target.double().view(len(values), -1)).sum(0)


def certain(x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The target does not depend on the image."""
    return torch.ones(1, len(x), dtype=torch.float64)


def posterior_of_a_pair(x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The law of x0 is that of a fair coin, -1 or 1."""
    plus = torch.sigmoid(2 * alpha * x / sigma**2)
    return torch.stack([1 - plus, plus])


# --- distillation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("solver_steps", [1, 3])
@pytest.mark.parametrize(("name", "skipping"), [("lcm", 1), ("lcm", 3), ("cd", 1)])
def test_distillation_ends_in_the_solvers_own_endpoint_map(
    name: str, skipping: int, solver: str, solver_steps: int
) -> None:
    """For a Gaussian teacher every map is affine, so the table has no error."""
    schedule, num_steps = make_schedule("v_prediction"), 25
    flags: dict[str, Any] = {
        "solver": solver,
        "solver_steps": solver_steps,
        "num_ddim_timesteps": num_steps,
        "skipping_steps": skipping,
        "simulated_play": 0.0,
        "guidance_scale": 1.0,
    }
    nets = Tabulated(schedule, denoised_gaussian, torch.linspace(-6, 6, 13))
    sweep(make_objective(name, schedule, **flags), nets, num_steps, [0.0], certain)

    start = torch.tensor([-2.0, -0.3, 0.0, 1.0, 2.5]).view(5, 1, 1, 1)
    step, x = repeated(SOLVERS[solver], solver_steps), start

    def predict(x: Tensor, t: Tensor) -> Any:
        return schedule.predict(nets.teacher(x, t, unconditional(5)), x, t)

    for t in range(999, 0, -skipping * 1000 // num_steps):
        time = torch.full((5,), t)
        below = (time - skipping * 1000 // num_steps).clamp(min=CLEAN)
        x = step(predict, schedule, x, time, below)
    torch.testing.assert_close(nets.land(start, 999).float(), x, rtol=1e-4, atol=1e-4)
    # and not the denoiser, where everything began
    assert (x - predict(start, torch.full((5,), 999)).x0).abs().max() > 0.3


def test_the_endpoint_map_comes_nearer_to_the_ode_with_more_steps_and_a_better_solver() -> None:
    """x / alpha grows along the ODE as sqrt(std^2 + tau^2)."""
    schedule = make_schedule("v_prediction")
    start = torch.tensor([-2.0, -0.3, 1.0, 2.5]).view(4, 1, 1, 1)
    alpha, sigma = schedule.alphas[999].double(), schedule.sigmas[999].double()
    exact = MEAN + STD * (start - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2).sqrt()
    errors = {}
    for solver, num_steps in (("ddim", 10), ("ddim", 20), ("ddim", 40), ("heun", 20)):
        nets = Tabulated(schedule, denoised_gaussian, torch.linspace(-6, 6, 13))
        flags: dict[str, Any] = {
            "solver": solver,
            "num_ddim_timesteps": num_steps,
            "skipping_steps": 1,
            "simulated_play": 0.0,
            "guidance_scale": 1.0,
        }
        sweep(make_objective("lcm", schedule, **flags), nets, num_steps, [0.0], certain)
        errors[solver, num_steps] = float((nets.land(start, 999) - exact).abs().max())
    assert errors["ddim", 10] > 1.7 * errors["ddim", 20] > 1.7**2 * errors["ddim", 40]
    assert errors["ddim", 20] > 1.5 * errors["heun", 20]  # whose last step is Euler's too


# --- training on pairs of the same noise ----------------------------------------------------------


def error_on_a_pair(name: str, num_steps: int) -> float:
    """Mean absolute distance, over x_T ~ N(0, 1), from the exact ODE: by symmetry the sign of
    x_T.
    """
    schedule = make_schedule("v_prediction")
    nets = Tabulated(schedule, denoised_pair, torch.linspace(-6, 6, 2001))
    if name == "ct":
        objective = make_objective(
            "ct", schedule, discretization="fixed", num_ddim_timesteps=num_steps
        )
        sweep(objective, nets, num_steps, [-1.0, 1.0], posterior_of_a_pair)
    else:
        objective = make_objective(
            "cd", schedule, solver="ddim", num_ddim_timesteps=num_steps, guidance_scale=1.0
        )
        sweep(objective, nets, num_steps, [0.0], certain)
    density = torch.exp(-(nets.points**2) / 2)
    distance = (nets.landings[999] - nets.points.sign()).abs()
    return float((density * distance).sum() / density.sum())


def test_pairs_of_the_same_noise_are_worse_than_the_solver_and_get_better_with_the_grid() -> None:
    """Both have N steps. x_u of the same noise is a random step, whose spread around the ODE's the
    mean over targets blurs.
    """
    training = {n: error_on_a_pair("ct", n) for n in (5, 20, 100)}
    distillation = {n: error_on_a_pair("cd", n) for n in (5, 20, 100)}
    for n in (5, 20, 100):
        assert training[n] > 2 * distillation[n]
    assert training[5] > 1.7 * training[20] > 1.7**2 * training[100]
    assert distillation[100] < 0.01


def test_on_one_step_training_learns_the_denoiser() -> None:
    schedule = make_schedule("v_prediction")
    nets = Tabulated(schedule, denoised_pair, torch.linspace(-4, 4, 201))
    sweep(
        make_objective("ct", schedule, discretization="fixed", num_ddim_timesteps=1),
        nets,
        1,
        [-1.0, 1.0],
        posterior_of_a_pair,
    )
    alpha, sigma = schedule.alphas[999].double(), schedule.sigmas[999].double()
    torch.testing.assert_close(
        nets.landings[999], torch.tanh(alpha * nets.points / sigma**2), rtol=0, atol=1e-5
    )
    assert CLEAN not in nets.landings
