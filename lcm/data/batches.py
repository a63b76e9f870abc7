"""Samples and batches: every random number is a function of (seed, epoch, sample), every position of the step."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count, islice
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lcm.data.buckets import Buckets, one_square
from lcm.data.config import DataConfig
from lcm.data.crops import Shape, choose_crop
from lcm.data.records import Record
from lcm.data.shards import Trajectories
from lcm.families import ImageSize

SampleRef = tuple[int, int]
"""(epoch, index of the record)."""


@dataclass(frozen=True)
class Sample:
    """One training sample with all its random numbers drawn: a picture, its encoded moments, or a trajectory of the teacher."""

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
    """Pixels [B, 3, R, R] in [-1, 1], unit noises [B, C, h, w], uniforms [B], all float32, and what is no tensor.

    One of three is there: `pixels`; of pictures encoded beforehand, `moments` [B, 2C, h, w] in the VAE's precision; without
    pictures, `trajectory` [B, M, C, h, w], clean latents first, all points or those that the method keeps. `embeds` are the
    prompts as encoded beforehand, None where they are not. `extra_noise` is [B, K, C, h, w], None where K = 0. `teacher` is the
    number of the one whose trajectories and embeddings these are.
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
    """Along a new first axis; None when there is nothing to stack. The samples of a data set have the same parts."""
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
        embeds=None if first is None else {name: torch.stack([s.embeds[name] for s in samples if s.embeds]) for name in first},
        posterior_noise=torch.stack([s.posterior_noise for s in samples]),
        noise=torch.stack([s.noise for s in samples]),
        uniform_time=torch.tensor([s.uniform_time for s in samples], dtype=torch.float32),
        uniform_guidance=torch.tensor([s.uniform_guidance for s in samples], dtype=torch.float32),
        uniform_landing=torch.tensor([s.uniform_landing for s in samples], dtype=torch.float32),
        extra_noise=stack([s.extra_noise for s in samples]),
        teacher=samples[0].teacher,
    )


def sample_rng(seed: int, epoch: int, key: str) -> np.random.Generator:
    """The random numbers of one sample in one epoch, the same on every machine, process and worker."""
    digest = hashlib.sha256(f"{seed}/{epoch}/{key}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


class Draws(NamedTuple):
    """Uniform numbers in [0, 1) of one sample: all are drawn, used or not, so an option never changes the other numbers."""

    caption: float
    empty: float
    flip: float
    top: float
    left: float
    time: float
    guidance: float


def draw(seed: int, epoch: int, key: str) -> tuple[np.random.Generator, Draws]:
    """The uniforms of a sample in an epoch, and the generator that goes on with its noises."""
    rng = sample_rng(seed, epoch, key)
    return rng, Draws(*rng.random(7).tolist())


class Encoded(Protocol):
    """Pictures and prompts that were encoded beforehand; `lcm.cache` makes them."""

    @property
    def has_pictures(self) -> bool:
        """Whether it is prompts and pictures, not prompts alone."""

    def picture(self, epoch: int, index: int) -> tuple[Tensor, ImageSize]:
        """Moments [2C, h, w] of the crop of that epoch, and what SDXL is told of it."""

    def prompt(self, prompt: str) -> dict[str, Tensor]:
        """What Family.embed_prompts gives, without the batch."""


def whole(resolution: int) -> ImageSize:
    """What SDXL is told about a picture that was never cropped, as its pipeline does by default."""
    return ImageSize(resolution, resolution, 0, 0, resolution, resolution)


class TrainDataset(Dataset[Sample]):
    """Records with their random choices. Indexed by (epoch, index).

    Pictures are cut to the shapes of their `buckets`, to the square of `resolution` where there are none; `latent_shape` is that
    of the square. With `trajectories`, one for every record, these take the place of pictures, and what is `encoded` that of
    pictures and prompts. `extra_noises` unit noises come with every sample besides the usual two. Raises ValueError when there
    are not as many trajectories as records.
    """

    def __init__(
        self,
        records: list[Record],
        config: DataConfig,
        latent_shape: tuple[int, int, int],
        seed: int,
        *,
        buckets: Buckets | None = None,
        trajectories: Trajectories | None = None,
        encoded: Encoded | None = None,
        extra_noises: int = 0,
    ) -> None:
        if trajectories is not None and len(trajectories) != len(records):
            raise ValueError(f"{len(records)} samples need as many trajectories; got {len(trajectories)}")
        self.records = records
        assert config.resolution is not None  # the trainer has asked the teacher
        self.config, self.resolution = config, config.resolution
        self.buckets = buckets or one_square(config.resolution, len(records))
        self.latent_shape = latent_shape
        self.seed = seed
        self.trajectories = trajectories
        self.encoded = encoded
        self.extra_noises = extra_noises

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, ref: SampleRef) -> Sample:
        epoch, index = ref
        record = self.records[index]
        rng, draws = draw(self.seed, epoch, record.key)
        target = self.buckets.shape(index)
        shape = self._latent_shape(target)
        posterior_noise, noise = torch.from_numpy(rng.standard_normal((2, *shape), dtype=np.float32))
        # later additions come after what was there before, so that old runs keep their numbers
        landing = rng.random()
        extra = rng.standard_normal((self.extra_noises, *shape), dtype=np.float32)
        empty = draws.empty < self.config.proportion_empty_prompts
        prompt = "" if empty else record.captions[int(draws.caption * len(record.captions))]
        pixels = moments = trajectory = None
        if self.trajectories is not None:
            trajectory, size = self.trajectories[index], whole(self.resolution)
        elif self.encoded is not None and self.encoded.has_pictures:
            moments, size = self.encoded.picture(epoch, index)
        else:
            image = record.image()
            crop = choose_crop(self.config, (image.height, image.width), target, draws.flip, draws.top, draws.left)
            pixels, size = crop.pixels(image, self.config.interpolation_type), crop.size
        return Sample(
            key=record.key,
            prompt=prompt,
            embeds=self.encoded.prompt(prompt) if self.encoded else None,
            moments=moments,
            pixels=pixels,
            trajectory=trajectory,
            size=size,
            posterior_noise=posterior_noise,
            noise=noise,
            uniform_time=draws.time,
            uniform_guidance=draws.guidance,
            uniform_landing=float(landing),
            extra_noise=torch.from_numpy(extra) if self.extra_noises else None,
        )

    def _latent_shape(self, target: Shape) -> tuple[int, int, int]:
        if target == (self.resolution, self.resolution):
            return self.latent_shape
        channels, side, _ = self.latent_shape
        factor = self.resolution // side
        return channels, target[0] // factor, target[1] // factor


class StepSampler:
    """Batches of sample references for steps first_step..last_step of one process.

    The samples of a group, one bucket of shapes, form one endless stream, epoch after epoch, each a fresh permutation. Every step
    takes the next stretch of one group's stream, so that all its batches have one shape, whatever the number of processes:
    `processes x accumulation` is what divides a step into batches. Groups take turns at random, as often as their size asks for.
    """

    def __init__(
        self,
        groups: Sequence[npt.NDArray[np.int64]],
        batch_size: int,
        *,
        accumulation: int,
        process: tuple[int, int],
        steps: range,
        seed: int,
    ) -> None:
        self.groups = groups
        self.batch_size = batch_size
        self.accumulation = accumulation
        self.rank, self.num_processes = process
        self.steps = steps
        self.seed = seed
        self.permutation = lru_cache(maxsize=2 * len(groups))(self._permutation)

    def __len__(self) -> int:
        return len(self.steps) * self.accumulation

    def __iter__(self) -> Iterator[list[SampleRef]]:
        for group, turn in islice(self.turns(), self.steps.start, self.steps.stop):
            for micro in range(self.accumulation):
                batch = (turn * self.accumulation + micro) * self.num_processes + self.rank
                yield [self._ref(group, batch * self.batch_size + i) for i in range(self.batch_size)]

    def turns(self) -> Iterator[tuple[int, int]]:
        """(group, how many steps it had before) of every step, from the first on."""
        streams = (self._times(group) for group in range(len(self.groups)))
        return ((group, turn) for _, group, turn in heapq.merge(*streams))

    def _times(self, group: int) -> Iterator[tuple[float, int, int]]:
        """When its steps are due, in epochs: one at a random moment of each of the equal intervals that its size makes."""
        rng = np.random.default_rng([self.seed, group])
        interval = self.batch_size * self.accumulation * self.num_processes / len(self.groups[group])
        return (((turn + rng.random()) * interval, group, turn) for turn in count())

    def _permutation(self, group: int, epoch: int) -> npt.NDArray[np.int64]:
        seed = [self.seed, epoch, group] if group else [self.seed, epoch]  # one group draws what it did before there were several
        return np.random.default_rng(seed).permutation(self.groups[group])

    def _ref(self, group: int, position: int) -> SampleRef:
        epoch, offset = divmod(position, len(self.groups[group]))
        return epoch, int(self.permutation(group, epoch)[offset])
