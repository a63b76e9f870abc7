"""The tangent of continuous-time consistency on real tiny networks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lcm.adapter.lora import add_lora
from lcm.methods.context import LatentBatch
from lcm.methods.objective import Objective
from lcm.models.networks import Networks, make_networks
from tests.support.closed_forms import make_batch, make_objective, rows, seen_by_the_loss
from tests.support.schedules import make_schedule
from tests.support.tangents import GUIDANCE, even_schedule, every_mode, make_scm, relative
from tests.support.worlds import build_sdxl_unet, build_unet, randomize_lora

every_unet = pytest.mark.parametrize(
    ("build", "width", "pooled"), [(build_unet, 16, None), (build_sdxl_unet, 32, 16)]
)


def with_adapter(unet: Any) -> Networks:
    add_lora(unet, 2)
    randomize_lora(unet)
    return make_networks(unet, ema_decay=None)


def tangent_of(
    objective: Objective, nets: Networks, batch: LatentBatch
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """t, x_t, F of the student and g, where the network predicts v."""
    t = objective.times(batch.uniform_time, batch.uniform_landing, 0.5).t
    x_t = objective.schedule.add_noise(batch.x0, batch.noise, t)
    cos, sin = objective.schedule.alpha_sigma(t)
    landed, target = seen_by_the_loss(objective, nets, batch)
    with torch.no_grad():
        output = nets.student(x_t, t, batch.cond)
    torch.testing.assert_close(landed, cos * x_t - sin * output, rtol=1e-4, atol=1e-5)
    return t, x_t, output, (landed.detach() - target) / sin


@every_unet
def test_forward_mode_goes_through_the_real_network(
    build: Any, width: int, pooled: int | None
) -> None:
    """Against a central difference over a twentieth of a timestep, in float64."""
    schedule, unet = even_schedule(), build().double()
    nets, batch = with_adapter(unet), make_batch(3, width=width, pooled=pooled)
    objective = make_scm(schedule, "jvp")
    t, x_t, _, g = tangent_of(objective, nets, batch)
    phi = schedule.phi[t].double().view(-1, 1, 1, 1)
    cond = batch.cond.map(lambda part: part.double())
    with torch.no_grad():
        guided = nets.teacher(x_t, t, batch.uncond) + GUIDANCE * (
            nets.teacher(x_t, t, batch.cond) - nets.teacher(x_t, t, batch.uncond)
        )

        def landing(timesteps: float) -> Tensor:
            angle = timesteps * (1.5 - 0.03) / 999
            x = x_t.double() + angle * guided.double()
            answer = unet(x, t + timesteps, **cond.unet_kwargs()).sample
            return torch.cos(phi + angle) * x - torch.sin(phi + angle) * answer

        drift = (landing(0.05) - landing(-0.05)) / (0.1 * (1.5 - 0.03) / 999)
    assert relative(g, phi.cos() * drift) < 2e-3


@every_unet
def test_both_derivatives_agree_on_a_real_network_that_is_smooth_in_time(
    build: Any, width: int, pooled: int | None
) -> None:
    """Random weights hear the fastest sines of the time embedding, a radian a timestep, which no
    finite difference follows.
    """
    schedule, unet = even_schedule(), build()
    fastest = [0, 1, 4, 5]  # cosines and sines of 1 and 0.1 radian a timestep, of four frequencies
    with torch.no_grad():
        unet.time_embedding.linear_1.weight[:, fastest] = 0.0
    nets, batch = with_adapter(unet), make_batch(3, width=width, pooled=pooled)
    forward, finite = (
        tangent_of(make_scm(schedule, mode, step=1), nets, batch)[3] for mode in ("jvp", "fd")
    )
    assert relative(finite, forward) < 0.03


@every_mode
@every_unet
def test_an_update_moves_the_student_along_its_tangent(
    mode: str, build: Any, width: int, pooled: int | None
) -> None:
    """The loss itself does not fall: its target moves with the student."""
    schedule, unet = make_schedule("v_prediction"), build()
    nets = with_adapter(unet)
    batch = rows(make_batch(width=width, pooled=pooled), torch.tensor([1, 3, 4]))
    objective = make_objective("scm", schedule, tangent_mode=mode)
    t, x_t, before, g = tangent_of(objective, nets, batch)
    optimizer = torch.optim.SGD([p for p in unet.parameters() if p.requires_grad], 1e-4)
    objective(nets, batch, 0.5).loss.mean().backward()
    optimizer.step()
    with torch.no_grad():
        moved = nets.student(x_t, t, batch.cond) - before
    assert float((moved * g).sum() / (moved.norm() * g.norm())) > 0.05
