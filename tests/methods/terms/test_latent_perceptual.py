"""The distance in the teacher's own features, and gradients that are computed at once."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from lcm.adapter.lora import lora_parameters
from lcm.methods.context import Draws, Landed, Numbers
from lcm.methods.terms.augment import UNIFORMS, augmentation
from lcm.methods.terms.latent_perceptual import LatentPerceptual
from lcm.methods.terms.term import at_once
from lcm.models.gradient_checkpointing import checkpoint_activations
from tests.support.closed_forms import GaussianRoles, batch_for, make_batch, make_objective
from tests.support.schedules import make_schedule, randn, stock_ddim
from tests.support.terms import landed_at, vary_second, with_second
from tests.support.worlds import build_unet


def distance(landed: Landed, depth: int = 2) -> Tensor:
    """By the first numbers of the batch."""
    term = LatentPerceptual(make_schedule(), 1.0, depth)
    return term(landed, Draws(landed.context.batch, Numbers()))


def between(nets: Any, batch: Any, point: Tensor, target: Tensor) -> Landed:
    landed = landed_at(nets, batch, make_schedule())
    return dataclasses.replace(landed, point=point.clone().requires_grad_(), target=target)


def test_it_is_a_distance() -> None:
    unet = build_unet()
    nets, batch = with_second(unet), batch_for(unet, 4)
    a, b = batch.x0, batch.noise
    with torch.no_grad():
        same, there = distance(between(nets, batch, a, a)), distance(between(nets, batch, a, b))
        back = distance(between(nets, batch, b, a))
    assert torch.equal(same, torch.zeros(4))
    assert (there > 1e-4).all()
    torch.testing.assert_close(there, back)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_it_is_lpips_on_features_of_noised_and_changed_latents(depth: int) -> None:
    """Value and gradient, written out for one sample at a time."""
    batch = make_batch(4, side=8)
    nets = GaussianRoles(make_schedule())
    landed = landed_at(nets, batch, make_schedule())
    value = distance(landed, depth)
    (slope,) = torch.autograd.grad(value.sum(), landed.point)
    assert batch.extra_uniform is not None and batch.extra_noise is not None
    stock = stock_ddim("epsilon")
    for i in range(4):
        numbers = batch.extra_uniform[i, : 1 + UNIFORMS]
        t, change = (500 * numbers[:1]).long(), augmentation(list(numbers[1:, None]))
        noise, point = batch.extra_noise[i : i + 1, 0], batch.x0[i : i + 1].requires_grad_()
        features = [
            nets.features(stock.add_noise(change(x), noise, t), t, batch.cond, depth)
            for x in (point, batch.noise[i : i + 1])
        ]
        expected = torch.zeros(())
        for a, b in zip(*features, strict=True):
            cosine = torch.cosine_similarity(a, b, dim=1)
            expected = expected + (2 - 2 * cosine).mean()  # |a / |a| - b / |b||^2
        torch.testing.assert_close(value[i], expected, rtol=1e-4, atol=1e-6)
        (wanted,) = torch.autograd.grad(expected, point)
        torch.testing.assert_close(slope[i : i + 1], wanted, rtol=1e-3, atol=1e-6)


def test_both_are_seen_through_one_change_and_one_noise() -> None:
    seen: list[Tensor] = []

    class Listening(GaussianRoles):
        def features(self, x_t: Tensor, t: Tensor, *args: Any) -> list[Tensor]:
            seen.append(x_t.detach())
            return super().features(x_t, t, *args)

    batch = make_batch(4)
    nets = Listening(make_schedule())
    distance(between(nets, batch, batch.x0, batch.x0))
    assert len(seen) == 2 and torch.equal(*seen)
    other = dataclasses.replace(batch, extra_uniform=1 - batch.extra_uniform)  # type: ignore
    distance(between(nets, other, batch.x0, batch.x0))
    assert not torch.equal(seen[0], seen[2])


def test_what_is_computed_at_once_is_what_autograd_finds() -> None:
    def measure(x: Tensor) -> Tensor:
        return (x.sin() * x.flip(3)).flatten(1).sum(1)

    point = randn(3, 4, 2, 2).requires_grad_()
    upstream = torch.tensor([1.0, -2.0, 0.5])
    values, slopes = [], []
    for found in (at_once(2.0 * point, measure), measure(2.0 * point)):
        values.append(found.detach())
        slopes.append(torch.autograd.grad((upstream * found).sum(), point)[0])
    assert torch.equal(*values)
    torch.testing.assert_close(*slopes)


TERMS = ["latent_perceptual", "adversarial", "dmd"]


@pytest.mark.parametrize(
    ("dtype", "mode"), [(torch.float32, "selective"), (torch.bfloat16, "full")], ids=str
)
def test_a_step_with_terms_has_one_gradient_whatever_is_computed_anew(
    dtype: torch.dtype, mode: str
) -> None:
    """The terms ask the frozen teacher, the second network and the student again, between the
    student's pass and its way back.
    """
    gradients = []
    objective = make_objective("lcm", terms=TERMS, dmd_of="noise")
    for each in ("no", mode):
        unet = build_unet().to(dtype)
        nets, batch = with_second(unet), batch_for(unet, 2)
        vary_second(nets)
        checkpoint_activations(unet.train(), each)
        loss = objective(nets, batch).loss.mean()
        gradients.append(torch.autograd.grad(loss, lora_parameters(unet)))
    assert all(map(torch.equal, *gradients))
