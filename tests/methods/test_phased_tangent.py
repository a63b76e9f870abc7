"""Continuous-time phased consistency: the tangent of the landing point on a phase's edge."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from lcm.diffusion.schedule import CLEAN
from lcm.models.conditioning import Conditioning
from tests.support.closed_forms import GaussianRoles, make_batch, make_objective, seen_by_the_loss
from tests.support.methods import every_type
from tests.support.schedules import make_schedule
from tests.support.tangents import even_schedule, every_mode, make_scm


class PhaseSolved(GaussianRoles):
    """The exact landing on the edges of four phases for data N(m, std^2)."""

    def student(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        x, phi = x_t.double(), self.angle(t).view(-1, 1, 1, 1)
        edge = torch.div(t.detach().round().long(), 250, rounding_mode="floor") * 250 - 1
        low = self.schedule.phi.double()[edge].view(-1, 1, 1, 1)
        mean = conditioning.prompt_embeds.double().mean((1, 2)).view(-1, 1, 1, 1)

        def spread(angle: Tensor) -> Tensor:
            return (angle.cos() ** 2 * self.std**2 + angle.sin() ** 2).sqrt()

        landed = low.cos() * mean + spread(low) / spread(phi) * (x - phi.cos() * mean)
        velocity = ((phi - low).cos() * x - landed) / (phi - low).sin()
        return self.tell(velocity, x, phi)

    target = student


@every_mode
def test_the_exact_phased_map_has_no_tangent(mode: str) -> None:
    """Also next to the edges, over which no difference may reach: the map of another phase is
    another.
    """
    schedule, batch = even_schedule(), make_batch(8)
    times = (torch.tensor([252, 254, 497, 499, 623, 748, 751, 998]) + 0.5 - 5) / 995
    batch = dataclasses.replace(batch, uncond=batch.cond, uniform_time=times)
    objective = make_scm(schedule, mode, step=1, phases=4)
    landed, target = seen_by_the_loss(objective, PhaseSolved(schedule), batch)
    other = seen_by_the_loss(objective, GaussianRoles(schedule), batch)
    apart, wrong = ((a - b).flatten(1).norm(dim=1) for a, b in ((landed, target), other))
    assert (apart < 0.02 * wrong.max()).all(), (apart, wrong)


@every_type
def test_forward_mode_is_the_derivative_of_the_landing_point(prediction_type: str) -> None:
    """Against a central difference of the landing on the edge along the teacher's line, in float64:
    g = cos(delta) df / dphi.
    """
    schedule, batch = even_schedule("v_prediction"), make_batch()
    batch = dataclasses.replace(batch, uncond=batch.cond)
    objective, nets = make_scm(schedule, "jvp", phases=4), GaussianRoles(schedule)
    t, _, s = objective.times(batch.uniform_time, batch.uniform_landing, 0.5)
    phi, low = (schedule.phi[time].double().view(-1, 1, 1, 1) for time in (t, s))
    x = phi.cos() * batch.x0.double() + phi.sin() * batch.noise.double()
    teacher = nets.velocity(x, phi, batch.cond)

    def landing(angle: float) -> Tensor:
        moved, at = x + angle * teacher, phi + angle
        velocity = nets.velocity(moved, at, batch.cond) + nets.strength * nets.bump(moved, at)
        return (at - low).cos() * moved - (at - low).sin() * velocity

    drift = (landing(1e-4) - landing(-1e-4)) / 2e-4
    landed, target = seen_by_the_loss(objective, nets, batch)
    g = (landed.double() - target.double()) / (phi - low).sin()
    expected = (phi - low).cos() * drift
    assert float((g - expected).norm() / expected.norm()) < 2e-3


def test_it_is_the_limit_of_pcm() -> None:
    """The gradient of `pcm` with l2 and one short solver step, up to a factor a sample."""
    schedule, batch = even_schedule(), make_batch()
    batch = dataclasses.replace(batch, uncond=batch.cond)

    class Nudged(GaussianRoles):
        nudge = torch.zeros(6, 4, 4, 4, requires_grad=True)

        def student(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
            return super().student(x_t, t, conditioning) + self.nudge

    nets = Nudged(schedule)
    continuous = make_scm(schedule, "fd", step=1, phases=4)
    times = continuous.times(batch.uniform_time, batch.uniform_landing, 0.5)
    discrete = make_objective("pcm", schedule, loss_type="l2", guidance_scale=3.0)
    discrete = dataclasses.replace(discrete, times=lambda *_: times)
    first, second = (
        torch.autograd.grad(objective(nets, batch, 0.5).loss.sum(), nets.nudge)[0].flatten(1)
        for objective in (continuous, discrete)
    )
    assert (torch.nn.functional.cosine_similarity(first, second) > 0.999).all()


def test_times_stay_in_their_phase() -> None:
    objective = make_objective("phased_scm", phases=4, tangent_step=20)
    uniform = torch.linspace(0, 0.9999, 3000)
    t, u, s = objective.times(uniform, uniform, 0.5)
    assert ((s <= u) & (u < t) & (t - u <= 20)).all()
    assert torch.equal(s, t // 250 * 250 - 1)
    assert {CLEAN, 249, 499, 749} == set(s.tolist())


@pytest.mark.parametrize("mode", ["fd", "central"])
def test_pure_noise_is_trained_at_zero_terminal_snr(mode: str) -> None:
    """Where `scm` has no tangent: cos(delta) is not 0 above an edge that is no image."""
    schedule, batch = make_schedule("v_prediction", zero_snr=True), make_batch()
    batch = dataclasses.replace(batch, uniform_time=torch.full((6,), 0.9999))
    nets = GaussianRoles(schedule)
    phased = make_objective("phased_scm", schedule, tangent_mode=mode)(nets, batch, 0.5).loss
    plain = make_objective("scm", schedule, tangent_mode=mode)(nets, batch, 0.5).loss
    assert (phased > 1e-3).all() and (plain < 1e-6).all()
