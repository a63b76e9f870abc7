"""What the loss of each method compares, written out, and where it is zero."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor

from lcm.adapter.lora import add_lora
from lcm.diffusion.grid import SolverGrid
from lcm.diffusion.schedule import CLEAN, NoiseSchedule
from lcm.diffusion.times import Times
from lcm.methods.context import LatentBatch
from lcm.methods.parts import OnChord
from lcm.models.networks import make_networks
from tests.support.closed_forms import (
    GaussianRoles,
    make_batch,
    make_objective,
    rows,
    seen_by_the_loss,
)
from tests.support.methods import COMPARING, FROM_TRAJECTORIES, every_type, without_terms
from tests.support.schedules import SD_BETAS, make_schedule
from tests.support.worlds import build_unet, randomize_lora

TANGENTS = ("scm", "phased_scm")
BOOTSTRAPPED = [
    name for name in COMPARING if name not in (*FROM_TRAJECTORIES, "flow_map", *TANGENTS)
]
"""Methods whose target is the landing point of the target network from x_u."""


@pytest.mark.parametrize("name", ["lcm", "ct", "pcm", "tcd", "tscd", "stochastic_flow"])
@pytest.mark.parametrize("progress", [0.0, 0.6])
def test_a_bootstrapped_loss_is_that_of_both_landing_points_written_out(
    name: str, progress: float
) -> None:
    """Landing from x_t by the student and from x_u by the target, both to s; with v, where landing
    is a rotation.
    """
    schedule, batch = make_schedule("v_prediction"), make_batch()
    flags: dict[str, Any] = {} if name == "stochastic_flow" else {"loss_type": "l2"}
    if name == "lcm":
        flags["simulated_play"] = 0.0
    objective, nets = make_objective(name, schedule, **flags), GaussianRoles(schedule)
    t, u, s = objective.times(batch.uniform_time, batch.uniform_landing, progress)
    noises = batch.extra_noise
    assert noises is not None

    def land(x: Tensor, start: Tensor, end: Tensor) -> Tensor:
        (a, b), (a_s, b_s) = schedule.alpha_sigma(start), schedule.alpha_sigma(end)
        v = nets.student(x, start, batch.cond)
        return torch.where(
            (start == end).view(-1, 1, 1, 1), x, a_s * (a * x - b * v) + b_s * (a * v + b * x)
        )

    (a, b), (a_u, b_u) = schedule.alpha_sigma(t), schedule.alpha_sigma(u)
    x_t = a * batch.x0 + b * batch.noise
    cond, uncond = nets.teacher(x_t, t, batch.cond), nets.teacher(x_t, t, batch.uncond)
    v = uncond + 5.0 * (cond - uncond)
    x0, eps = (batch.x0, batch.noise) if name == "ct" else (a * x_t - b * v, a * v + b * x_t)
    if name != "stochastic_flow":
        x_u = a_u * x0 + b_u * eps
        expected = (land(x_t, t, s) - land(x_u, u, s)).square().mean((1, 2, 3))
    else:
        deviation = b_u / b * (1 - a**2 / a_u**2).sqrt()
        x_u = a_u * x0 + (b_u**2 - deviation**2).sqrt() * eps + deviation * noises[:, 3]
        first, second = (land(x_t + 0.5 * b * noises[:, i], t, s) for i in (0, 1))
        target = land(x_u + 0.5 * b_u * noises[:, 2], u, s)

        def rms(difference: Tensor) -> Tensor:
            return difference.square().mean((1, 2, 3)).sqrt()

        expected = (rms(first - target) + rms(second - target) - rms(first - second)) / 2
    torch.testing.assert_close(
        objective(nets, batch, progress).loss, expected, rtol=1e-3, atol=1e-6
    )


@pytest.mark.parametrize("name", ["flow_map", "endpoint"])
def test_a_direct_loss_compares_with_the_trajectory_written_out(name: str) -> None:
    schedule, batch = make_schedule("v_prediction"), make_batch()
    flags: dict[str, Any] = {"guidance_scale": 1.0, "solver_steps": 3} if name == "flow_map" else {}
    objective, nets = make_objective(name, schedule, **flags), GaussianRoles(schedule)
    if name == "endpoint":
        assert batch.trajectory is not None
        t = ((batch.uniform_time * 40).long() + 1) * 25 - 1
        x_t = torch.stack([batch.trajectory[i, (int(time) + 1) // 25] for i, time in enumerate(t)])
        target, s = batch.trajectory[:, 0], torch.full_like(t, CLEAN)
    else:
        t = ((batch.uniform_time * 4).long() + 1) * 250 - 1
        s = t - 250
        a, b = schedule.alpha_sigma(t)
        x_t = target = a * batch.x0 + b * batch.noise
        for here, there in ((t, t - 83), (t - 83, t - 167), (t - 167, s)):
            (a, b), (a_s, b_s) = schedule.alpha_sigma(here), schedule.alpha_sigma(there)
            v = nets.teacher(target, here, batch.cond)
            target = a_s * (a * target - b * v) + b_s * (a * v + b * target)
    (a, b), (a_s, b_s) = schedule.alpha_sigma(t), schedule.alpha_sigma(s)
    v = nets.student(x_t, t, batch.cond)
    landed = a_s * (a * x_t - b * v) + b_s * (a * v + b * x_t)
    torch.testing.assert_close(
        objective(nets, batch, 0.5).loss,
        (landed - target).square().mean((1, 2, 3)),
        rtol=1e-4,
        atol=1e-6,
    )


@every_type
@pytest.mark.parametrize("u", [979, 499, 19, CLEAN])
def test_the_random_step_is_stock_ddim_with_eta_one(prediction_type: str, u: int) -> None:
    stock = DDIMScheduler(
        **SD_BETAS, prediction_type=prediction_type, clip_sample=False, set_alpha_to_one=True
    )
    stock.set_timesteps(50)
    schedule, batch = NoiseSchedule.from_scheduler(stock), make_batch()
    objective = make_objective("stochastic_flow", schedule, guidance_scale=1.0)
    t, nets = torch.full((6,), u + 20), GaussianRoles(schedule)
    objective = dataclasses.replace(objective, times=lambda *_: Times(t, t - 20, t - 20))
    x_t, noise = schedule.add_noise(batch.x0, batch.noise, t), batch.extra_noise
    assert noise is not None
    expected = stock.step(
        nets.teacher(x_t, t, batch.cond), u + 20, x_t, eta=1.0, variance_noise=noise[:, 3]
    ).prev_sample
    # and there it stays, s = u
    shown = expected + objective.injection * schedule.sigmas[t - 20].view(-1, 1, 1, 1) * noise[:, 2]
    torch.testing.assert_close(
        seen_by_the_loss(objective, nets, batch)[1], shown, rtol=2e-5, atol=2e-5
    )


def test_the_random_step_has_the_mean_of_the_posterior_and_in_small_steps_its_variance() -> None:
    """On data N(m, std^2), where p(x_u | x_t) is Gaussian: the variance misses what the posterior
    of x0 adds, of order step^2.
    """
    schedule, misses = make_schedule("v_prediction"), []
    nets, batch = GaussianRoles(schedule), rows(make_batch(), torch.zeros(6, dtype=torch.int64))
    extra = batch.extra_noise
    assert extra is not None
    extra[:2, 3], extra[2, 3] = 0.0, 1.0  # at two points without noise, and at the first with
    batch.x0[1], batch.x0[2], batch.noise[:3] = batch.x0[0] + 1.0, batch.x0[0], 0.0
    for step in (80, 40, 20):
        t = torch.full((6,), 599)
        objective = make_objective("stochastic_flow", schedule, guidance_scale=1.0)
        objective = dataclasses.replace(
            objective, times=lambda *_, t=t, step=step: Times(t, t - step, t - step)
        )
        x_u = seen_by_the_loss(objective, nets, batch)[1].double()
        marginal = (schedule.alphas.double() * nets.std) ** 2 + schedule.sigmas.double() ** 2
        shrink = schedule.alphas[599].double() / schedule.alphas[599 - step].double()
        slope = ((x_u[1] - x_u[0]) / schedule.alphas[599]).mean()
        assert float(slope) == pytest.approx(
            float(shrink * marginal[599 - step] / marginal[599]), rel=1e-4
        )
        variance = (x_u[2] - x_u[0]).square().mean()
        exact = marginal[599 - step] - (shrink * marginal[599 - step]) ** 2 / marginal[599]
        misses.append(float(exact - variance))
    assert misses[0] / misses[1] == pytest.approx(4, rel=0.35)
    assert misses[1] / misses[2] == pytest.approx(4, rel=0.35)
    assert 0 < misses[2] < 0.2 * float(exact)


@dataclasses.dataclass(frozen=True)
class LandingAtU:
    """The times of `inner`, with s = u."""

    inner: Any
    direct: bool = False

    def __call__(self, uniform: Tensor, uniform_landing: Tensor, progress: float) -> Times:
        t, u, _ = self.inner(uniform, uniform_landing, progress)
        return Times(t, u, u)


@dataclasses.dataclass(frozen=True)
class TwoPoints:
    """A path through `x_t` at the times t, and through `end` at any other."""

    t: Tensor
    x_t: Tensor
    end: Tensor
    is_straight: bool = False

    def __call__(self, schedule: NoiseSchedule, batch: LatentBatch, time: Tensor) -> Tensor:
        return self.x_t if torch.equal(time, self.t) else self.end


@pytest.mark.parametrize("name", BOOTSTRAPPED)
def test_a_bootstrap_that_lands_at_u_targets_x_u_itself(name: str) -> None:
    """Whatever the target network says there. x_u is written out for each coupling."""
    schedule, batch = make_schedule(), make_batch()
    flags: dict[str, Any] = {"guidance_scale": 1.0} if name != "ct" else {}
    if name == "cd":
        flags["solver"] = "ddim"
    objective = make_objective(name, schedule, **flags, **without_terms(name))
    objective = dataclasses.replace(objective, times=LandingAtU(objective.times), simulation=None)
    nets = GaussianRoles(schedule, strength=5.0)
    t, u, _ = objective.times(batch.uniform_time, batch.uniform_landing, 0.5)
    (a, s), (a_u, s_u) = schedule.alpha_sigma(t), schedule.alpha_sigma(u)
    x_t = a * batch.x0 + s * batch.noise
    eps = nets.teacher(x_t, t, batch.cond)
    x0 = (x_t - s * eps) / a
    if name == "ct":
        expected = a_u * batch.x0 + s_u * batch.noise
    elif name == "stochastic_flow":
        assert batch.extra_noise is not None
        deviation = (s_u**2 / s**2 * (1 - a**2 / a_u**2)).sqrt()
        expected = (
            a_u * x0 + (s_u**2 - deviation**2).sqrt() * eps + deviation * batch.extra_noise[:, 3]
        )
        # what the target is shown
        expected = expected + objective.injection * s_u * batch.extra_noise[:, 2]
    else:
        expected = a_u * x0 + s_u * eps
    torch.testing.assert_close(
        seen_by_the_loss(objective, nets, batch)[1], expected, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    "name", ["lcm", "cd", "pcm", "tcd", "tscd", "flow_map", *FROM_TRAJECTORIES]
)
@every_type
def test_a_student_that_is_the_teacher_has_no_loss_where_one_solver_step_is_exact(
    name: str, prediction_type: str
) -> None:
    """One DDIM step from t is the student's own landing point."""
    unet, schedule = build_unet(), make_schedule(prediction_type)
    add_lora(unet, 2)
    nets, batch = make_networks(unet, ema_decay=None), make_batch(3)
    flags: dict[str, Any] = {"guidance_scale": 1.0, "solver": "ddim", "solver_steps": 1}
    if name == "rollout":
        flags["rollout_steps"] = [1]
    objective = make_objective(name, schedule, loss_type="l2", **flags)
    if name in BOOTSTRAPPED:
        objective = dataclasses.replace(objective, times=LandingAtU(objective.times))
    if name in FROM_TRAJECTORIES:
        t = objective.times(batch.uniform_time, batch.uniform_landing, 0.5).t
        assumed = batch.trajectory
        assert assumed is not None
        x_t = objective.path(schedule, batch, t)
        end = schedule.predict(nets.teacher(x_t, t, batch.cond), x_t, t).x0
        objective = dataclasses.replace(objective, path=TwoPoints(t, x_t, end))
    torch.testing.assert_close(objective(nets, batch).loss, torch.zeros(3), rtol=0, atol=1e-6)
    randomize_lora(unet)
    assert (objective(nets, batch).loss > 1e-5).all()


@every_type
@pytest.mark.parametrize("zero_snr", [False, True])
def test_deterministic_play_through_the_right_image_passes_along_the_chord(
    prediction_type: str, zero_snr: bool
) -> None:
    """The stock sampler, given a network that always answers with the image at the end of the
    trajectory.
    """
    if prediction_type == "epsilon" and zero_snr:
        return  # refused: it says nothing about the image
    base = DDPMScheduler(
        **SD_BETAS, prediction_type=prediction_type, rescale_betas_zero_snr=zero_snr
    )
    scheduler = DDIMScheduler.from_config(
        base.config, timestep_spacing="trailing", clip_sample=False
    )
    schedule, batch = NoiseSchedule.from_scheduler(base), make_batch(2)
    assert batch.trajectory is not None
    x0, x = batch.trajectory[:, 0], batch.trajectory[:, -1]
    scheduler.set_timesteps(8)
    for t in scheduler.timesteps:
        torch.testing.assert_close(
            OnChord(SolverGrid(40))(schedule, batch, t.expand(2)), x, rtol=1e-4, atol=1e-4
        )
        alpha = scheduler.alphas_cumprod[t].sqrt()
        sigma = (1.0 - alpha.square()).sqrt()
        eps = (x - alpha * x0) / sigma
        answer = {"epsilon": eps, "v_prediction": alpha * eps - sigma * x0, "sample": x0}[
            prediction_type
        ]
        x = scheduler.step(answer, t, x).prev_sample
    torch.testing.assert_close(x, x0, rtol=1e-4, atol=1e-4)
