"""A training sample and a batch of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lcm.models.families import ImageSize

SampleRef = tuple[int, int]
"""(epoch, index of the record)."""


@dataclass(frozen=True)
class Sample:
    """One training sample with all its random numbers drawn: a picture, its encoded moments, or a
    trajectory of the teacher.
    """

    key: str
    prompt: str
    pixels: Tensor | None
    moments: Tensor | None
    trajectory: Tensor | None
    embeds: dict[str, Tensor] | None
    size: ImageSize
    posterior_noise: Tensor
    noise: Tensor
    uniform_time: float
    uniform_guidance: float
    uniform_landing: float
    extra_noise: Tensor | None
    teacher: int = 0


@dataclass(frozen=True)
class SampleBatch:
    """Pixels [B, 3, R, R] in [-1, 1], unit noises [B, C, h, w], uniforms [B], all float32, and what
    is no tensor.

    One of three is there: `pixels`; of pictures encoded beforehand, `moments` [B, 2C, h, w] in the
    VAE's precision; without pictures, `trajectory` [B, M, C, h, w], clean latents first, all points
    or those that the method keeps. `embeds` are the prompts as encoded beforehand, None where they
    are not. `extra_noise` is [B, K, C, h, w], None where K = 0. `teacher` is the number of the one
    whose trajectories and embeddings these are.
    """

    keys: list[str]
    prompts: list[str]
    sizes: list[ImageSize]
    pixels: Tensor | None
    moments: Tensor | None
    trajectory: Tensor | None
    embeds: dict[str, Tensor] | None
    posterior_noise: Tensor
    noise: Tensor
    uniform_time: Tensor
    uniform_guidance: Tensor
    uniform_landing: Tensor
    extra_noise: Tensor | None
    teacher: int = 0


def stack(parts: list[Tensor | None]) -> Tensor | None:
    """Along a new first axis; None when there is nothing to stack. The samples of a data set have
    the same parts.
    """
    present = [part for part in parts if part is not None]
    return torch.stack(present) if present else None


def collate(samples: list[Sample]) -> SampleBatch:
    first = samples[0].embeds
    return SampleBatch(
        keys=[s.key for s in samples],
        prompts=[s.prompt for s in samples],
        sizes=[s.size for s in samples],
        pixels=stack([s.pixels for s in samples]),
        moments=stack([s.moments for s in samples]),
        trajectory=stack([s.trajectory for s in samples]),
        embeds=None
        if first is None
        else {name: torch.stack([s.embeds[name] for s in samples if s.embeds]) for name in first},
        posterior_noise=torch.stack([s.posterior_noise for s in samples]),
        noise=torch.stack([s.noise for s in samples]),
        uniform_time=torch.tensor([s.uniform_time for s in samples], dtype=torch.float32),
        uniform_guidance=torch.tensor([s.uniform_guidance for s in samples], dtype=torch.float32),
        uniform_landing=torch.tensor([s.uniform_landing for s in samples], dtype=torch.float32),
        extra_noise=stack([s.extra_noise for s in samples]),
        teacher=samples[0].teacher,
    )
