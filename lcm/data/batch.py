"""A training sample and a batch of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lcm.models.conditioning import ImageSize
from lcm.system.transfers import sent

SampleRef = tuple[int, int]
"""(epoch, index of the record)."""


@dataclass(frozen=True, eq=False)
class Pixels:
    """A picture [3, H, W] float32 in [-1, 1], with a batch axis first where it is of a batch."""

    tensor: Tensor


@dataclass(frozen=True, eq=False)
class Moments:
    """What the VAE says of a picture that was encoded beforehand, mean and log variance [2C, h, w]
    in its precision, with a batch axis first where it is of a batch.
    """

    tensor: Tensor


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The teacher's path from noise to image where there is no picture: [M, C, h, w] float32, clean
    latents first, all points or those that the method keeps, with a batch axis first where it is of
    a batch.
    """

    tensor: Tensor


Content = Pixels | Moments | Trajectory
"""What latents are made of; the samples of a data set are of one kind."""


@dataclass(frozen=True)
class Sample:
    """One training sample with all its random numbers drawn.

    `embeds` is the prompt as encoded beforehand, None where it is not; `extra_noise` and
    `extra_uniform` None where the objective asks for none.
    """

    key: str
    prompt: str
    size: ImageSize
    content: Content
    embeds: dict[str, Tensor] | None
    posterior_noise: Tensor
    noise: Tensor
    uniform_time: float
    uniform_guidance: float
    uniform_landing: float
    extra_noise: Tensor | None
    extra_uniform: Tensor | None = None
    teacher: int = 0


@dataclass(frozen=True)
class SampleBatch:
    """Samples side by side: unit noises [B, C, h, w] and uniforms [B], all float32.

    `embeds` are the prompts as encoded beforehand, None where they are not. `extra_noise` is [B, K,
    C, h, w] and `extra_uniform` [B, M], None where there are none. `teacher` is the number of the
    one whose trajectories and embeddings these are.
    """

    keys: list[str]
    prompts: list[str]
    sizes: list[ImageSize]
    content: Content
    embeds: dict[str, Tensor] | None
    posterior_noise: Tensor
    noise: Tensor
    uniform_time: Tensor
    uniform_guidance: Tensor
    uniform_landing: Tensor
    extra_noise: Tensor | None
    extra_uniform: Tensor | None = None
    teacher: int = 0

    def to(self, device: torch.device) -> SampleBatch:
        """The batch on `device`: all of it before any work is asked for, which would be waited
        for.
        """
        return dataclasses.replace(
            self, **{name: on(device, value) for name, value in vars(self).items()}
        )


def on(device: torch.device, value: Any) -> Any:
    """A field of a batch on `device`; what is no tensor stays as it is."""
    match value:
        case Tensor():
            return sent(value, device)
        case Pixels() | Moments() | Trajectory():
            return type(value)(sent(value.tensor, device))
        case dict():
            return {name: sent(tensor, device) for name, tensor in value.items()}
    return value


def stack(parts: Sequence[Tensor | None]) -> Tensor | None:
    """The parts along a new first axis; None when there is nothing to stack."""
    present = [part for part in parts if part is not None]
    return torch.stack(present) if present else None


def stack_embeds(parts: Sequence[dict[str, Tensor] | None]) -> dict[str, Tensor] | None:
    """The embeddings by name along a new first axis; None when nothing was encoded beforehand."""
    present = [part for part in parts if part is not None]
    if not present:
        return None
    return {name: torch.stack([part[name] for part in present]) for name in present[0]}


def collate(samples: list[Sample]) -> SampleBatch:
    """One batch of samples that are alike in shape and in what they have."""
    first = samples[0]
    return SampleBatch(
        keys=[s.key for s in samples],
        prompts=[s.prompt for s in samples],
        sizes=[s.size for s in samples],
        content=type(first.content)(torch.stack([s.content.tensor for s in samples])),
        embeds=stack_embeds([s.embeds for s in samples]),
        posterior_noise=torch.stack([s.posterior_noise for s in samples]),
        noise=torch.stack([s.noise for s in samples]),
        uniform_time=torch.tensor([s.uniform_time for s in samples], dtype=torch.float32),
        uniform_guidance=torch.tensor([s.uniform_guidance for s in samples], dtype=torch.float32),
        uniform_landing=torch.tensor([s.uniform_landing for s in samples], dtype=torch.float32),
        extra_noise=stack([s.extra_noise for s in samples]),
        extra_uniform=stack([s.extra_uniform for s in samples]),
        teacher=first.teacher,
    )
