"""The heads, what they learn, and what they tell the student, written out."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from lcm.adapter.lora import lora_parameters
from lcm.diffusion.schedule import CLEAN, NoiseSchedule
from lcm.methods.context import Draws, Landed, LatentBatch, Numbers
from lcm.methods.terms.adversarial import Adversarial, Heads, HeadsCritic
from tests.support.closed_forms import PARTS, GaussianRoles, batch_for, make_batch, make_objective
from tests.support.schedules import make_schedule, stock_ddim
from tests.support.terms import landed_at, with_second
from tests.support.worlds import build_unet

LANDING = [CLEAN, 0, 499, 998]
every_landing = pytest.mark.parametrize("s", LANDING)
every_real = pytest.mark.parametrize("real", ["target", "images"])


def make_critic(schedule: NoiseSchedule, real: str = "target", r1: float = 0.0) -> HeadsCritic:
    return HeadsCritic(schedule, Heads(PARTS.channels, "cpu"), real, r1)


def noised_by_hand(x: Tensor, s: int, t: Tensor, noise: Tensor) -> Tensor:
    """q(x_t | x_s) of the process."""
    alpha_bar = torch.cat([stock_ddim("epsilon").alphas_cumprod, torch.ones(1)])
    ratio = (alpha_bar[t] / alpha_bar[s]).view(-1, 1, 1, 1)
    return ratio.sqrt() * x + (1 - ratio).sqrt() * noise


def times_by_hand(batch: LatentBatch, s: int) -> tuple[Tensor, Tensor]:
    assert batch.extra_uniform is not None and batch.extra_noise is not None
    return s + 1 + (batch.extra_uniform[:, 0] * (999 - s)).long(), batch.extra_noise[:, 0]


def answers(critic: HeadsCritic, nets: Any, x_t: Tensor, t: Tensor, said: Any) -> list[Tensor]:
    """[B, places] of each head."""
    features = nets.features(x_t, t, said, None)
    return [head(part).flatten(1) for head, part in zip(critic.heads.heads, features, strict=True)]


@every_landing
@every_real
def test_the_heads_learn_by_the_hinge(real: str, s: int) -> None:
    """Mean of relu(1 - D) over what is real and of relu(1 + D) over the student's, all heads and
    places alike, both noised alike from the landing time on; pictures from the clean end on.
    """
    schedule, batch = make_schedule(), make_batch()
    nets, critic = GaussianRoles(schedule), make_critic(schedule, real)
    with torch.no_grad():
        for head in critic.heads.heads:
            head[-1].weight.mul_(20)  # beyond the hinge, too
    landed = landed_at(nets, batch, schedule, s).detached()
    t, noise = times_by_hand(batch, s)
    made = noised_by_hand(landed.point, s, t, noise)
    true = (
        noised_by_hand(landed.target, s, t, noise)
        if real == "target"
        else noised_by_hand(batch.x0, CLEAN, t, noise)
    )
    expected, beyond = torch.zeros(len(t)), 0
    for x_t, sign in ((true, -1.0), (made, 1.0)):
        each = answers(critic, nets, x_t, t, batch.cond)
        expected += sum((1 + sign * part).clamp(min=0).mean(1) for part in each) / len(each)
        beyond += sum(int((1 + sign * part < 0).sum()) for part in each)
    assert beyond
    loss = critic(landed, Draws(batch, Numbers()))
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)


def test_r1_is_half_of_the_squared_gradient_to_what_is_real() -> None:
    """Sample by sample, of the mean answer to all features together."""
    schedule, batch = make_schedule(), make_batch()
    nets = GaussianRoles(schedule)
    landed = landed_at(nets, batch, schedule).detached()
    without, with_r1 = make_critic(schedule), make_critic(schedule, r1=3.0)
    loss = with_r1(landed, Draws(batch, Numbers()))
    t, noise = times_by_hand(batch, CLEAN)
    expected = without(landed, Draws(batch, Numbers()))
    for i in range(len(t)):
        x_t = noised_by_hand(landed.target, CLEAN, t, noise)[i : i + 1]
        features = nets.features(x_t, t[i : i + 1], batch.cond, None)
        features = [part.detach().requires_grad_() for part in features]
        pairs = zip(without.heads.heads, features, strict=True)
        answer = torch.stack([head(part).mean() for head, part in pairs]).mean()
        squares = [part.square().sum() for part in torch.autograd.grad(answer, features)]
        penalty = 1.5 * torch.stack(squares).sum()
        assert penalty > 0
        torch.testing.assert_close(loss[i] - expected[i], penalty, rtol=1e-3, atol=1e-6)
    loss.mean().backward()
    assert all(p.grad is not None for p in with_r1.heads.heads[0][1].parameters())


@every_landing
def test_the_term_is_what_the_heads_say_of_the_student(s: int) -> None:
    """-D, with the gradient of D to the landing point and none to the heads."""
    schedule, batch = make_schedule(), make_batch()
    nets, critic = GaussianRoles(schedule), make_critic(schedule)
    landed = landed_at(nets, batch, schedule, s)
    value = Adversarial(1.0, critic)(landed, Draws(batch, Numbers()))
    t, noise = times_by_hand(batch, s)
    each = answers(critic, nets, noised_by_hand(landed.point, s, t, noise), t, batch.cond)
    expected = -torch.stack([part.mean(1) for part in each]).mean(0)
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)
    (wanted,) = torch.autograd.grad(expected.sum(), landed.point)
    (found,) = torch.autograd.grad(value.sum(), landed.point)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-6)
    assert all(p.grad is None for p in critic.parameters)


@every_landing
def test_noise_is_added_up_to_any_time_above_alike(s: int) -> None:
    schedule, batch = make_schedule(), make_batch(1)
    landed = landed_at(GaussianRoles(schedule), batch, schedule, s)
    above = 999 - s
    even = dataclasses.replace(
        batch, extra_uniform=(torch.arange(2 * above)[:, None] + 0.5) / (2 * above)
    )
    t, _ = make_critic(schedule).times(landed, Draws(even, Numbers()))
    assert sorted(t.tolist()) == sorted([*range(s + 1, 1000)] * 2)


def push_of(apart: float) -> float:
    """How strongly heads that have learned push the student, whose points lie `apart` from those
    that are real: the root mean square of the gradient.
    """
    schedule, generator = make_schedule(), torch.Generator().manual_seed(0)
    nets, critic = GaussianRoles(schedule), make_critic(schedule, r1=100.0)
    optimizer = torch.optim.Adam(critic.parameters, 1e-2)

    def landed() -> tuple[Landed, Draws]:
        batch = make_batch(16, seed=int(torch.randint(10**9, (1,), generator=generator)))
        found = landed_at(nets, batch, schedule)  # the picture and the noise have one law
        point = (found.point.detach() + apart).requires_grad_()
        return Landed(found.context, point, found.target), Draws(batch, Numbers())

    for _ in range(50):
        points, draws = landed()
        optimizer.zero_grad()
        critic(points.detached(), draws).mean().backward()
        optimizer.step()
    points, draws = landed()
    value = Adversarial(1.0, critic)(points, draws)
    return float(torch.autograd.grad(value.sum(), points.point)[0].square().mean().sqrt())


def test_heads_that_cannot_tell_do_not_push() -> None:
    assert push_of(0.0) < 0.25 * push_of(1.0)


@every_real
def test_what_the_heads_learn_moves_nothing_else(real: str) -> None:
    unet = build_unet()
    nets, batch = with_second(unet), batch_for(unet, 2)
    objective = make_objective(
        "lcm", terms=["adversarial"], adversarial_real=real, adversarial_r1=1.0
    )
    landed = objective(nets, batch).landed
    assert landed is not None
    losses = objective.critic_losses(landed, 0)
    assert set(losses) == {"heads"} and losses["heads"].shape == (2,)
    losses["heads"].mean().backward()
    assert all(p.grad is None for p in [*unet.parameters(), *lora_parameters(unet)])
    for critic in objective.critics:
        assert all(p.grad is not None and p.grad.isfinite().all() for p in critic.parameters)
        assert sum(bool(p.grad is not None and p.grad.any()) for p in critic.parameters) > 10


def test_heads_begin_alike_in_every_run_and_draw_from_nobody() -> None:
    before = torch.get_rng_state()
    first, second = Heads((8, 16), "cpu"), Heads((8, 16), "cpu")
    assert torch.equal(torch.get_rng_state(), before)
    assert all(map(torch.equal, first.parameters(), second.parameters()))
