"""Continuous-time consistency: the tangent against its closed form, both derivatives, and the
discrete loss it is the limit of."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from lcm.diffusion.prediction_types import PREDICTION_TYPES
from lcm.methods.context import LatentBatch
from lcm.methods.objective import Objective
from lcm.models.conditioning import Conditioning
from tests.support.closed_forms import GaussianRoles, make_batch, seen_by_the_loss
from tests.support.schedules import make_schedule
from tests.support.tangents import GUIDANCE, even_schedule, every_mode, make_scm, relative

every_type = pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)


@dataclasses.dataclass(frozen=True)
class Known:
    """What a step is made of, in float64: x_t, its angle, both velocities, and g as the target
    implies it.
    """

    x: Tensor
    phi: Tensor
    student: Tensor
    teacher: Tensor
    g: Tensor


def known(
    objective: Objective, nets: GaussianRoles, batch: LatentBatch, progress: float = 0.5
) -> Known:
    t = objective.times(batch.uniform_time, batch.uniform_landing, progress).t
    phi = objective.schedule.phi[t].double().view(-1, 1, 1, 1)
    x = phi.cos() * batch.x0.double() + phi.sin() * batch.noise.double()
    # the velocity is affine in the mean, so the guided teacher is the denoiser of another mean
    guided = Conditioning(
        batch.uncond.prompt_embeds
        + GUIDANCE * (batch.cond.prompt_embeds - batch.uncond.prompt_embeds)
    )
    student = nets.velocity(x, phi, batch.cond) + nets.strength * nets.bump(x, phi)
    _, target = seen_by_the_loss(objective, nets, batch, progress)
    g = (phi.cos() * x - target.double()) / phi.sin() - student
    return Known(x, phi, student, nets.velocity(x, phi, guided), g)


def derivatives(
    nets: GaussianRoles, x: Tensor, phi: Tensor, conditioning: Conditioning
) -> tuple[Tensor, Tensor]:
    """dF/dx and dF/dphi of the student, by hand."""
    mean = conditioning.prompt_embeds.double().mean((1, 2)).view(-1, 1, 1, 1)
    cos = phi.cos()
    sin = phi.sin()
    narrow = 1 - nets.std**2
    variance = cos**2 * nets.std**2 + sin**2
    r = (x - cos * mean) / variance
    r_phi = (sin * mean - r * 2 * cos * sin * narrow) / variance
    steepness = nets.strength * (1 - torch.tanh(0.7 * x + torch.cos(3 * phi)) ** 2)
    by_x = cos * sin * narrow / variance + 0.7 * steepness
    by_phi = (
        (cos**2 - sin**2) * narrow * r
        + cos * sin * narrow * r_phi
        - cos * mean
        - 3 * torch.sin(3 * phi) * steepness
    )
    return by_x, by_phi


def analytic_tangent(nets: GaussianRoles, made: Known, batch: LatentBatch) -> Tensor:
    """sCM, Eq. 6: -cos^2 (F - F_teacher) - cos sin (x + dF/dphi), the derivative along dx/dphi =
    F_teacher.
    """
    by_x, by_phi = derivatives(nets, made.x, made.phi, batch.cond)
    cos, sin = made.phi.cos(), made.phi.sin()
    return -(cos**2) * (made.student - made.teacher) - cos * sin * (
        made.x + by_x * made.teacher + by_phi
    )


@every_type
def test_forward_mode_is_the_analytic_derivative(prediction_type: str) -> None:
    schedule, batch = even_schedule(prediction_type), make_batch()
    objective, nets = make_scm(schedule, "jvp"), GaussianRoles(schedule)
    made = known(objective, nets, batch)
    assert relative(made.g, analytic_tangent(nets, made, batch)) < 1e-5


@pytest.mark.parametrize(("mode", "gain"), [("fd", 2.0), ("central", 4.0)])
@every_type
def test_a_finite_difference_converges_to_the_analytic_derivative(
    prediction_type: str, mode: str, gain: float
) -> None:
    """Half the step, half the error down, a quarter to both sides: orders 1 and 2."""
    schedule, batch, errors = even_schedule(prediction_type), make_batch(), []
    batch = dataclasses.replace(batch, uniform_time=torch.linspace(0.1, 0.95, 6))
    nets = GaussianRoles(schedule)
    for step in (40, 20, 10):
        objective = make_scm(schedule, mode, step=step)
        made = known(objective, nets, batch)
        errors.append(relative(made.g, analytic_tangent(nets, made, batch)))
    assert errors[0] / errors[1] == pytest.approx(gain, rel=0.15)
    assert errors[1] / errors[2] == pytest.approx(gain, rel=0.15)
    assert errors[2] < 0.06 / gain


@every_mode
def test_a_consistency_function_has_no_tangent(mode: str) -> None:
    """The exact one for data N(m, std^2): the student is where it should be, so nothing pushes
    it.
    """
    schedule, batch = even_schedule(), make_batch()
    batch = dataclasses.replace(batch, uncond=batch.cond)

    class Solved(GaussianRoles):
        def student(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
            x, phi = x_t.double(), self.angle(t).view(-1, 1, 1, 1)
            mean = conditioning.prompt_embeds.double().mean((1, 2)).view(-1, 1, 1, 1)
            spread = (phi.cos() ** 2 * self.std**2 + phi.sin() ** 2).sqrt()
            x0 = mean + self.std / spread * (x - phi.cos() * mean)
            return ((phi.cos() * x - x0) / phi.sin()).float()

        target = student

    objective = make_scm(schedule, mode, step=1)
    landed, target = seen_by_the_loss(objective, Solved(schedule), batch)
    of_another = seen_by_the_loss(objective, GaussianRoles(schedule), batch)
    assert (landed - target).norm() < 0.01 * (of_another[0] - of_another[1]).norm()


@every_type
@pytest.mark.parametrize("step", [1, 5, 25])
def test_the_gradient_is_that_of_discrete_distillation_up_to_a_factor_per_sample(
    prediction_type: str, step: int
) -> None:
    """The path from t to t - step with l2, written out here; the factor is cot(phi_t) / (phi_t -
    phi_u).
    """
    schedule, batch = make_schedule(prediction_type), make_batch()

    class Nudged(GaussianRoles):
        nudge = torch.zeros(6, 4, 4, 4, requires_grad=True)

        def student(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
            return super().student(x_t, t, conditioning) + self.nudge

    nets = Nudged(schedule)
    objective = make_scm(schedule, "fd", step=step)
    (gradient,) = torch.autograd.grad(objective(nets, batch, 0.5).loss.sum(), nets.nudge)

    t = objective.times(batch.uniform_time, batch.uniform_landing, 0.5).t
    (a, s), (a_u, s_u) = schedule.alpha_sigma(t), schedule.alpha_sigma(t - step)
    x_t = a * batch.x0 + s * batch.noise

    def x0_and_eps(
        output: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor
    ) -> tuple[Tensor, Tensor]:
        if prediction_type == "epsilon":
            return (x - sigma * output) / alpha, output
        if prediction_type == "sample":
            return output, (x - alpha * output) / sigma
        return alpha * x - sigma * output, alpha * output + sigma * x

    cond, uncond = nets.teacher(x_t, t, batch.cond), nets.teacher(x_t, t, batch.uncond)
    x0, eps = x0_and_eps(uncond + GUIDANCE * (cond - uncond), x_t, a, s)
    x_u = a_u * x0 + s_u * eps
    target = x0_and_eps(nets.target(x_u, t - step, batch.cond), x_u, a_u, s_u)[0].detach()
    landed = x0_and_eps(nets.student(x_t, t, batch.cond), x_t, a, s)[0]
    (expected,) = torch.autograd.grad((landed - target).square().mean((1, 2, 3)).sum(), nets.nudge)

    phi, phi_u = torch.atan2(s, a), torch.atan2(s_u, a_u)
    torch.testing.assert_close(
        gradient,
        expected * a / s / (phi - phi_u),
        rtol=5e-3,
        atol=5e-3 * float(gradient.abs().max()),
    )
    cosine = torch.nn.functional.cosine_similarity(gradient.flatten(1), expected.flatten(1))
    assert (cosine > 0.9999).all()


@every_mode
def test_the_unstable_term_warms_up(mode: str) -> None:
    """At the start F is regressed onto F - cos^2 (F - F_teacher), the diffusion loss; then a line
    to the whole tangent.
    """
    schedule, batch = even_schedule(), make_batch()
    nets, objective = GaussianRoles(schedule), make_scm(schedule, mode, warmup=0.2)
    start, half, whole, later = (
        known(objective, nets, batch, progress) for progress in (0.0, 0.1, 0.2, 0.9)
    )
    expected = -(start.phi.cos() ** 2) * (start.student - start.teacher)
    torch.testing.assert_close(start.g, expected, rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(half.g, (start.g + whole.g) / 2, rtol=1e-4, atol=2e-5)
    assert relative(start.g, whole.g) > 0.1
    torch.testing.assert_close(whole.g, later.g, rtol=1e-4, atol=2e-5)
    without = known(make_scm(schedule, mode), nets, batch, 0.0)
    torch.testing.assert_close(whole.g, without.g, rtol=1e-4, atol=2e-5)


@every_mode
def test_the_tangent_is_normalised_per_sample(mode: str) -> None:
    schedule = even_schedule()
    batch = make_batch()
    nets = GaussianRoles(even_schedule(), strength=1.0)
    plain = known(make_scm(schedule, mode), nets, batch).g
    normalised = known(make_scm(schedule, mode, normalization=0.1), nets, batch).g
    size = plain.square().mean((1, 2, 3), keepdim=True).sqrt()
    torch.testing.assert_close(normalised, plain / (size + 0.1), rtol=1e-4, atol=2e-5)


@every_type
@every_mode
def test_the_loss_is_the_square_of_the_tangent_for_a_student_that_is_its_own_target(
    prediction_type: str, mode: str
) -> None:
    schedule, batch = even_schedule(prediction_type), make_batch()
    objective, nets = make_scm(schedule, mode), GaussianRoles(schedule)
    expected = known(objective, nets, batch).g.square().mean((1, 2, 3)).float()
    torch.testing.assert_close(objective(nets, batch, 0.5).loss, expected, rtol=2e-3, atol=1e-4)
