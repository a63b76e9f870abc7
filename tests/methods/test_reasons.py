"""The reasons of the refusals are true, on data N(m, std^2)."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from lcm.diffusion.schedule import NoiseSchedule
from lcm.methods.context import LatentBatch
from lcm.methods.objective import Objective
from tests.support.closed_forms import GaussianRoles, make_batch, make_objective
from tests.support.methods import every_type
from tests.support.schedules import make_schedule


class AffineStudent(GaussianRoles):
    """A velocity plus a x + b, one a and b a sample, both 0: so that every sample has a gradient of
    its own.
    """

    def __init__(self, schedule: NoiseSchedule, size: int, solution: str) -> None:
        super().__init__(schedule)
        self.solution = solution
        self.free = torch.zeros(2, size, 1, 1, 1, dtype=torch.float64, requires_grad=True)
        self.landing_angle = torch.zeros(size, 1, 1, 1, dtype=torch.float64)

    def student(self, x_t: Tensor, t: Tensor, conditioning: Any) -> Tensor:
        a, b = self.free
        return self.answer(x_t, t, conditioning, a * x_t.double() + b)

    def target(self, x_t: Tensor, t: Tensor, conditioning: Any) -> Tensor:
        return self.answer(x_t, t, conditioning, torch.zeros_like(x_t).double())

    def answer(self, x_t: Tensor, t: Tensor, conditioning: Any, change: Tensor) -> Tensor:
        x, phi = x_t.double(), self.angle(t).view(-1, 1, 1, 1)
        velocity = (
            self.velocity(x, phi, conditioning)
            if self.solution == "denoiser"
            else self.flow_map(x, phi, conditioning)
        )
        return self.tell(velocity + change, x, phi)

    def flow_map(self, x: Tensor, phi: Tensor, conditioning: Any) -> Tensor:
        """The velocity whose jump from phi to the landing angle is the exact solution of the
        probability-flow ODE.
        """
        mean = conditioning.prompt_embeds.double().mean((1, 2)).view(-1, 1, 1, 1)
        lower = self.landing_angle

        def spread(angle: Tensor) -> Tensor:
            return (angle.cos() ** 2 * self.std**2 + angle.sin() ** 2).sqrt()

        solution = lower.cos() * mean + spread(lower) / spread(phi) * (x - phi.cos() * mean)
        # a jump is x cos(phi - lower) - F sin(phi - lower)
        return (x * (phi - lower).cos() - solution) / (phi - lower).sin()


def gaussian_batch(nets: AffineStudent, uniform_time: float, size: int) -> LatentBatch:
    batch = make_batch(size)
    mean = batch.cond.prompt_embeds.mean((1, 2)).view(-1, 1, 1, 1)
    return dataclasses.replace(
        batch, x0=mean + nets.std * batch.x0, uniform_time=torch.full((size,), uniform_time)
    )


def gradient_in_standard_errors(
    objective: Objective, nets: AffineStudent, batch: LatentBatch
) -> float:
    """The gradient of the mean over the samples, the larger of both parameters."""
    (gradient,) = torch.autograd.grad(objective(nets, batch).loss.sum(), nets.free)
    gradient = gradient.flatten(1)
    return float((gradient.mean(1).abs() / gradient.std(1) * gradient.shape[1] ** 0.5).max())


@every_type
@pytest.mark.parametrize("uniform_time", [0.99, 0.6, 0.3])
def test_same_noise_and_l2_teach_the_denoiser_and_not_the_flow_map(
    prediction_type: str, uniform_time: float
) -> None:
    size, schedule = 1500, make_schedule(prediction_type)
    flags: dict[str, Any] = {"phases": 4, "guidance_scale": 1.0}
    control = make_objective("flow_map", schedule, coupling="same_noise", as_control=True, **flags)
    denoiser = AffineStudent(schedule, size, "denoiser")
    flow = AffineStudent(schedule, size, "flow map")
    batch = gaussian_batch(flow, uniform_time, size)
    s = control.times(batch.uniform_time, batch.uniform_landing, 0.0).s
    flow.landing_angle = schedule.phi[s].double().view(-1, 1, 1, 1)
    assert gradient_in_standard_errors(control, denoiser, batch) < 4
    assert gradient_in_standard_errors(control, flow, batch) > 10
    # the way out that the refusal names
    solver = make_objective(
        "flow_map", schedule, coupling="solver", solver="heun", solver_steps=16, **flags
    )
    assert solver(flow, batch).loss.mean() < 1e-3 * solver(denoiser, batch).loss.mean()


@pytest.mark.parametrize("uniform_time", [0.99, 0.6, 0.3])
def test_a_random_step_and_l2_teach_the_denoiser_and_not_the_consistency_function(
    uniform_time: float,
) -> None:
    """The tower property. Without the injected noise, which l2 averages out."""
    size, schedule = 1500, make_schedule("v_prediction")
    flags: dict[str, Any] = {
        "loss_type": "l2",
        "guidance_scale": 1.0,
        "num_ddim_timesteps": 10,
        "as_control": True,
    }
    control = dataclasses.replace(
        make_objective("stochastic_flow", schedule, **flags), injection=0.0
    )
    solver = dataclasses.replace(
        make_objective("stochastic_flow", schedule, coupling="solver", **flags), injection=0.0
    )
    denoiser = AffineStudent(schedule, size, "denoiser")
    consistency = AffineStudent(schedule, size, "flow map")
    batch = gaussian_batch(denoiser, uniform_time, size)
    assert gradient_in_standard_errors(control, denoiser, batch) < 4
    assert gradient_in_standard_errors(control, consistency, batch) > 10
    assert gradient_in_standard_errors(solver, denoiser, batch) > 10
