"""The way of a batch from samples to latents and conditioning."""

from __future__ import annotations

import torch

from lcm.data.batch import Moments, Pixels, SampleBatch, Trajectory
from lcm.methods.context import LatentBatch
from lcm.models.families import Family
from lcm.system.transfers import sent


def encode(family: Family, batch: SampleBatch, device: torch.device) -> LatentBatch:
    """Pixels, their moments or the ends of trajectories, and captions to latents and conditioning,
    on `device`.
    """
    empty = sent(torch.tensor([prompt == "" for prompt in batch.prompts]), device)
    host_time, host_uniform = batch.uniform_time, batch.extra_uniform
    batch = batch.to(device)
    embeds = family.embed_prompts(batch.prompts) if batch.embeds is None else batch.embeds
    # parked text encoders answer on the CPU
    cond = family.condition(
        {name: sent(tensor, device) for name, tensor in embeds.items()}, batch.sizes
    )
    uncond = family.unconditional(cond)
    trajectory, content = None, batch.content.tensor
    match batch.content:
        case Trajectory():
            trajectory, x0 = content, content[:, 0]
        case Moments():
            x0 = family.draw_latents(content, batch.posterior_noise)
        case Pixels():
            moments = family.image_moments(content)
            x0 = family.draw_latents(moments, batch.posterior_noise)
    return LatentBatch(
        x0=x0,
        noise=batch.noise,
        uniform_time=batch.uniform_time,
        uniform_guidance=batch.uniform_guidance,
        uniform_landing=batch.uniform_landing,
        # an empty prompt is what the pipeline puts in the place of none, zeros for some SDXL models
        cond=cond.where(empty, uncond),
        uncond=uncond,
        trajectory=trajectory,
        extra_noise=batch.extra_noise,
        extra_uniform=batch.extra_uniform,
        prompts=tuple(batch.prompts),
        host_time=host_time,
        host_uniform=host_uniform,
    )
