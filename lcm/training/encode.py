"""The way of a batch from samples to latents and conditioning."""

from __future__ import annotations

import torch

from lcm.data import (
    SampleBatch,
)
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
    trajectory = None if batch.trajectory is None else batch.trajectory.to(device)
    if trajectory is not None:
        x0 = trajectory[:, 0]
    else:
        moments = batch.moments
        if moments is None:
            assert batch.pixels is not None
            moments = family.image_moments(batch.pixels.to(device))
        x0 = family.draw_latents(moments.to(device), batch.posterior_noise.to(device))
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
