"""Samples and batches: every random number is a function of (seed, epoch, sample), every position
of the step.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lcm.data.batch import Content, Moments, Pixels, Sample, SampleRef, Trajectory
from lcm.data.buckets import Buckets
from lcm.data.config import SampleConfig
from lcm.data.crops import Crop, Shape, choose_crop, uncropped
from lcm.data.randomness import Draws, draw
from lcm.data.records import Record
from lcm.methods.context import Numbers
from lcm.models.conditioning import ImageSize


class Trajectories(Protocol):
    """One trajectory of the teacher for every record, [M, C, h, w] float32, clean latents first."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Tensor: ...


class Encoded(Protocol):
    """Pictures and prompts that were encoded beforehand; `lcm.data.precomputed` makes them."""

    @property
    def has_pictures(self) -> bool:
        """Whether it is prompts and pictures, not prompts alone."""

    def picture(self, epoch: int, index: int) -> tuple[Tensor, ImageSize]:
        """Moments [2C, h, w] of the crop of that epoch, and the size SDXL is conditioned on."""

    def prompt(self, prompt: str) -> dict[str, Tensor]:
        """The tensors of Family.embed_prompts, without the batch."""


NONE = Numbers()


class TrainDataset(Dataset[Sample]):
    """Records with their random choices. Indexed by (epoch, index).

    Pictures are cut to the shapes of their `buckets`; `latent_shape` is that of the square of their
    resolution. With `trajectories`, one for every record, these take the place of pictures, and
    what is `encoded` that of pictures and prompts. `extra_numbers` come with every sample besides
    the usual ones. Raises ValueError when there are not as many trajectories as records.
    """

    def __init__(
        self,
        records: list[Record],
        samples: SampleConfig,
        latent_shape: tuple[int, int, int],
        seed: int,
        *,
        buckets: Buckets,
        trajectories: Trajectories | None = None,
        encoded: Encoded | None = None,
        extra_numbers: Numbers = NONE,
    ) -> None:
        if trajectories is not None and len(trajectories) != len(records):
            raise ValueError(
                f"{len(records)} samples need as many trajectories; got {len(trajectories)}"
            )
        self.records = records
        self.samples, self.resolution = samples, buckets.resolution
        self.buckets = buckets
        self.latent_shape = latent_shape
        self.seed = seed
        self.trajectories = trajectories
        self.encoded = encoded
        self.extra_numbers = extra_numbers

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, ref: SampleRef) -> Sample:
        epoch, index = ref
        record = self.records[index]
        rng, draws = draw(self.seed, epoch, record.key)
        shape = self._latent_shape(self.buckets.shape(index))
        posterior_noise, noise = torch.from_numpy(
            rng.standard_normal((2, *shape), dtype=np.float32)
        )
        # later additions come after what was there before, so that old runs keep their numbers
        landing = rng.random()
        noises, uniforms = self.extra_numbers
        extra_noise = rng.standard_normal((noises, *shape), dtype=np.float32)
        extra_uniform = rng.random(uniforms, dtype=np.float32)
        empty = draws.empty < (self.samples.proportion_empty_prompts or 0.0)
        prompt = "" if empty else record.captions[int(draws.caption * len(record.captions))]
        content, size = self._content(epoch, index, draws)
        return Sample(
            key=record.key,
            prompt=prompt,
            size=size,
            content=content,
            embeds=self.encoded.prompt(prompt) if self.encoded else None,
            posterior_noise=posterior_noise,
            noise=noise,
            uniform_time=draws.time,
            uniform_guidance=draws.guidance,
            uniform_landing=float(landing),
            extra_noise=torch.from_numpy(extra_noise) if noises else None,
            extra_uniform=torch.from_numpy(extra_uniform) if uniforms else None,
        )

    def first_crop(self, index: int, picture: Shape) -> Crop | None:
        """What the first epoch cuts out of a picture of record `index`, of this (height, width);
        None where a trajectory takes its place.
        """
        if self.trajectories is not None:
            return None
        _, draws = draw(self.seed, 0, self.records[index].key)
        return self._crop(index, picture, draws)

    def _crop(self, index: int, picture: Shape, draws: Draws) -> Crop:
        target = self.buckets.shape(index)
        return choose_crop(self.samples, picture, target, draws.flip, draws.top, draws.left)

    def _content(self, epoch: int, index: int, draws: Draws) -> tuple[Content, ImageSize]:
        """What the latents of a sample are made of, and the size that SDXL is conditioned on."""
        if self.trajectories is not None:
            return Trajectory(self.trajectories[index]), uncropped(self.resolution)
        if self.encoded is not None and self.encoded.has_pictures:
            moments, size = self.encoded.picture(epoch, index)
            return Moments(moments), size
        image = self.records[index].image()
        crop = self._crop(index, (image.height, image.width), draws)
        return Pixels(crop.pixels(image, self.samples.interpolation_type)), crop.size

    def _latent_shape(self, target: Shape) -> tuple[int, int, int]:
        if target == (self.resolution, self.resolution):
            return self.latent_shape
        channels, side, _ = self.latent_shape
        factor = self.resolution // side
        return channels, target[0] // factor, target[1] // factor
