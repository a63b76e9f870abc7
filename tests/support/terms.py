"""Networks with a second one beside the student, and landing points for a term to judge."""

from __future__ import annotations

from typing import Any

import torch

from lcm.adapter.lora import add_lora
from lcm.diffusion.schedule import CLEAN, NoiseSchedule
from lcm.diffusion.times import Times
from lcm.methods.context import Landed, LatentBatch, LossContext, Roles
from lcm.models.networks import Networks, guided_teacher, make_networks
from lcm.models.second import SecondNetwork
from tests.support.worlds import randomize_lora


def with_second(unet: Any, ema_decay: float | None = None, **options: Any) -> Networks:
    """An adapter of rank 2 everywhere that does something, and the teacher as second network. An
    average that nobody updates stays what the student is now.
    """
    live = add_lora(unet, 2)
    second = SecondNetwork(unet, live, [p.detach().clone() for p in live])  # B is zero
    randomize_lora(unet)
    return make_networks(unet, ema_decay=ema_decay, second_network=second, **options)


def vary_second(nets: Networks, seed: int = 5) -> SecondNetwork:
    """Gives the second network values of its own, and returns it."""
    generator = torch.Generator().manual_seed(seed)
    assert nets.second_network is not None
    with torch.no_grad():
        for parameter in nets.second_network.parameters:
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return nets.second_network


def landed_at(
    nets: Roles,
    batch: LatentBatch,
    schedule: NoiseSchedule,
    s: int = CLEAN,
    guidance_scale: float | None = None,
) -> Landed:
    """The picture as the student's point, with gradients, and the noise as its target, at s."""
    size = len(batch.x0)
    landing = torch.full((size,), s)
    times = Times(torch.full_like(landing, schedule.num_train_timesteps - 1), landing, landing)
    scale = None if guidance_scale is None else torch.full((size,), guidance_scale)
    predict = guided_teacher(nets.teacher, schedule, batch.cond, batch.uncond, scale)
    context = LossContext(nets, batch, times, batch.noise, batch.cond, predict, 0.0, 0)
    return Landed(context, batch.x0.clone().requires_grad_(), batch.noise)
