"""The way of a batch from samples to latents and conditioning."""

from __future__ import annotations

import torch

from lcm.data.batch import Moments, Pixels, SampleBatch, Trajectory
from lcm.methods.objective import LatentBatch
from lcm.models.families import Family


def encode(family: Family, batch: SampleBatch, device: torch.device) -> LatentBatch:
    """Pixels, their moments or the ends of trajectories, and captions to latents and conditioning,
    on `device`.
    """
    embeds = family.embed_prompts(batch.prompts) if batch.embeds is None else batch.embeds
    cond = family.condition(
        {name: tensor.to(device) for name, tensor in embeds.items()}, batch.sizes
    )
    uncond = family.unconditional(cond)
    trajectory, content = None, batch.content.tensor.to(device)
    match batch.content:
        case Trajectory():
            trajectory, x0 = content, content[:, 0]
        case Moments():
            x0 = family.draw_latents(content, batch.posterior_noise.to(device))
        case Pixels():
            moments = family.image_moments(content)
            x0 = family.draw_latents(moments, batch.posterior_noise.to(device))
    empty = torch.tensor([prompt == "" for prompt in batch.prompts], device=device)
    return LatentBatch(
        x0=x0,
        noise=batch.noise.to(device),
        uniform_time=batch.uniform_time.to(device),
        uniform_guidance=batch.uniform_guidance.to(device),
        uniform_landing=batch.uniform_landing.to(device),
        # an empty prompt is what the pipeline puts in the place of none, zeros for some SDXL models
        cond=cond.where(empty, uncond),
        uncond=uncond,
        trajectory=trajectory,
        extra_noise=None if batch.extra_noise is None else batch.extra_noise.to(device),
    )
