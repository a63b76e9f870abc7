"""Feedback on decoded landing points: who gets it, how much, and what is no reward."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from lcm.methods.context import Draws, Landed, Numbers
from lcm.methods.terms.reward import Rewarded
from tests.support.closed_forms import GaussianRoles, make_batch
from tests.support.schedules import make_schedule
from tests.support.terms import landed_at


def decode(latents: Tensor) -> Tensor:
    """Pixels in [-1, 1] of latents [B, 4, h, w], some beyond."""
    return 0.7 * latents[:, :3] + 0.1 * latents[:, 3:]


def brightness(pictures: Tensor, prompts: Sequence[str]) -> Tensor:
    """Counts more for later prompts."""
    assert len(pictures) == len(prompts)
    assert pictures.min() >= 0 and pictures.max() <= 1
    counts = torch.tensor([1.0 + int(prompt.split()[1]) for prompt in prompts])
    return counts * pictures.square().mean((1, 2, 3))


def by_hand(x: Tensor) -> Tensor:
    pictures = (decode(x) / 2 + 0.5).clamp(0, 1)
    return torch.arange(1.0, len(x) + 1) * pictures.square().mean((1, 2, 3))


def landed_with(uniforms: Tensor) -> Landed:
    batch = dataclasses.replace(make_batch(len(uniforms)), extra_uniform=uniforms[:, None])
    schedule = make_schedule()
    return landed_at(GaussianRoles(schedule), batch, schedule)


def rewarded(landed: Landed, share: float, reward: Any = brightness) -> Tensor:
    return Rewarded(1.0, share, decode, reward)(landed, Draws(landed.context.batch, Numbers()))


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_those_that_are_chosen_are_pushed_towards_more_of_it(share: float) -> None:
    """By their share of the whole gradient, and the others not at all."""
    uniforms = torch.tensor([0.1, 0.3, 0.7, 0.2, 0.95, 0.25])
    landed = landed_with(uniforms)
    value = rewarded(landed, share)
    chosen = uniforms < share
    expected = -by_hand(landed.point) / share
    torch.testing.assert_close(value[chosen], expected[chosen])
    assert not value[~chosen].any()
    (gradient,) = torch.autograd.grad(value.sum(), landed.point)
    (wanted,) = torch.autograd.grad(expected.sum(), landed.point)
    assert wanted.abs().amax((1, 2, 3)).min() > 0
    torch.testing.assert_close(gradient[chosen], wanted[chosen])
    assert not gradient[~chosen].any()


def test_their_mean_is_that_of_all() -> None:
    values = [rewarded(landed_with(torch.full((6,), (i + 0.5) / 8)), 0.25) for i in range(8)]
    expected = -by_hand(landed_with(torch.zeros(6)).point)
    torch.testing.assert_close(torch.stack(values).mean(0), expected)


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (lambda p, words: p.mean(), r"one number for each picture.*got \[\] for one"),
        (lambda p, words: p.mean((2, 3)), r"one number for each picture.*got \[1, 3\] for one"),
        (lambda p, words: torch.cat([p, p]).mean((1, 2, 3)), r"got \[2\] for one"),
        (lambda p, words: float(p.detach().mean()), "got float for one"),
        (lambda p, words: None, "got NoneType for one"),
        (lambda p, words: p.mean((1, 2, 3)).detach(), "no gradient to the pictures; compute it"),
        (lambda p, words: torch.ones(1), "no gradient to the pictures; compute it"),
        (lambda p, words: torch.ones(1).requires_grad_(), "no gradient to the pictures"),
    ],
)
def test_what_is_no_reward_is_refused(reward: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^reward: .*{message}"):
        rewarded(landed_with(torch.zeros(2)), 0.5, reward)


def test_a_picture_counts_also_where_it_is_beyond_what_can_be_shown() -> None:
    """There it has no gradient, as it would not look different."""
    landed = landed_with(torch.zeros(2))
    point = torch.full_like(landed.point, 50.0).requires_grad_()
    value = rewarded(dataclasses.replace(landed, point=point), 1.0)
    torch.testing.assert_close(value, -torch.tensor([1.0, 2.0]))
    assert not torch.autograd.grad(value.sum(), point)[0].any()
