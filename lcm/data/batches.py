"""Samples and batches: every random number is a function of (seed, epoch, sample), every position of the step."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from lcm.data.config import INTERPOLATION, DataConfig
from lcm.data.records import Record
from lcm.data.shards import Trajectories
from lcm.families import ImageSize

SampleRef = tuple[int, int]
"""(epoch, index of the record)."""


@dataclass(frozen=True)
class Sample:
    """One training sample with all its random numbers drawn: a picture, or a trajectory of the teacher without one."""

    key: str
    prompt: str
    pixels: Tensor | None
    trajectory: Tensor | None
    size: ImageSize
    posterior_noise: Tensor
    noise: Tensor
    uniform_time: float
    uniform_guidance: float
    uniform_landing: float
    extra_noise: Tensor | None


@dataclass(frozen=True)
class SampleBatch:
    """Pixels [B, 3, R, R] in [-1, 1], unit noises [B, C, h, w], uniforms [B], all float32, and what is no tensor.

    Without pictures `pixels` is None and `trajectory` [B, M, C, h, w], clean latents first, all points or those that the method
    keeps; with pictures it is the other way round. `extra_noise` is [B, K, C, h, w], None where K = 0.
    """

    keys: list[str]
    prompts: list[str]
    sizes: list[ImageSize]
    pixels: Tensor | None
    trajectory: Tensor | None
    posterior_noise: Tensor
    noise: Tensor
    uniform_time: Tensor
    uniform_guidance: Tensor
    uniform_landing: Tensor
    extra_noise: Tensor | None


def stack(parts: list[Tensor | None]) -> Tensor | None:
    """Along a new first axis; None when there is nothing to stack. The samples of a data set have the same parts."""
    present = [part for part in parts if part is not None]
    return torch.stack(present) if present else None


def collate(samples: list[Sample]) -> SampleBatch:
    return SampleBatch(
        keys=[s.key for s in samples],
        prompts=[s.prompt for s in samples],
        sizes=[s.size for s in samples],
        pixels=stack([s.pixels for s in samples]),
        trajectory=stack([s.trajectory for s in samples]),
        posterior_noise=torch.stack([s.posterior_noise for s in samples]),
        noise=torch.stack([s.noise for s in samples]),
        uniform_time=torch.tensor([s.uniform_time for s in samples], dtype=torch.float32),
        uniform_guidance=torch.tensor([s.uniform_guidance for s in samples], dtype=torch.float32),
        uniform_landing=torch.tensor([s.uniform_landing for s in samples], dtype=torch.float32),
        extra_noise=stack([s.extra_noise for s in samples]),
    )


def sample_rng(seed: int, epoch: int, key: str) -> np.random.Generator:
    """The random numbers of one sample in one epoch, the same on every machine, process and worker."""
    digest = hashlib.sha256(f"{seed}/{epoch}/{key}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def whole(resolution: int) -> ImageSize:
    """What SDXL is told about a picture that was never cropped, as its pipeline does by default."""
    return ImageSize(resolution, resolution, 0, 0, resolution)


class TrainDataset(Dataset[Sample]):
    """Records with their random choices. Indexed by (epoch, index).

    With `trajectories`, one for every record, these take the place of pictures. `extra_noises` unit noises come with every
    sample besides the usual two. Raises ValueError when there are not as many trajectories as records.
    """

    def __init__(
        self,
        records: list[Record],
        config: DataConfig,
        latent_shape: tuple[int, int, int],
        seed: int,
        *,
        trajectories: Trajectories | None = None,
        extra_noises: int = 0,
    ) -> None:
        if trajectories is not None and len(trajectories) != len(records):
            raise ValueError(f"{len(records)} samples need as many trajectories; got {len(trajectories)}")
        self.records = records
        assert config.resolution is not None  # the trainer has asked the teacher
        self.config, self.resolution = config, config.resolution
        self.latent_shape = latent_shape
        self.seed = seed
        self.trajectories = trajectories
        self.extra_noises = extra_noises

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, ref: SampleRef) -> Sample:
        epoch, index = ref
        record = self.records[index]
        rng = sample_rng(self.seed, epoch, record.key)
        # all drawn, used or not: an option then never changes the other numbers of a run
        caption, empty, flip, top, left, time, guidance = rng.random(7)
        posterior_noise, noise = torch.from_numpy(rng.standard_normal((2, *self.latent_shape), dtype=np.float32))
        # later additions come after what was there before, so that old runs keep their numbers
        landing = rng.random()
        extra = rng.standard_normal((self.extra_noises, *self.latent_shape), dtype=np.float32)
        pixels = trajectory = None
        if self.trajectories is None:
            image, size = self._crop(record.image(), flip, top, left)
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1.0
        else:
            trajectory, size = self.trajectories[index], whole(self.resolution)
        return Sample(
            key=record.key,
            prompt="" if empty < self.config.proportion_empty_prompts else record.captions[int(caption * len(record.captions))],
            pixels=pixels,
            trajectory=trajectory,
            size=size,
            posterior_noise=posterior_noise,
            noise=noise,
            uniform_time=float(time),
            uniform_guidance=float(guidance),
            uniform_landing=float(landing),
            extra_noise=torch.from_numpy(extra) if self.extra_noises else None,
        )

    def _crop(self, image: Image.Image, flip: float, top: float, left: float) -> tuple[Image.Image, ImageSize]:
        """Resizes the shorter side to `resolution`, mirrors, cuts a square; the uniforms choose."""
        resolution, (width, height) = self.resolution, image.size
        scale = resolution / min(width, height)
        if min(width, height) != resolution:
            size = (max(resolution, round(width * scale)), max(resolution, round(height * scale)))
            image = image.resize(size, INTERPOLATION[self.config.interpolation_type])
        if self.config.random_flip and flip < 0.5:
            # before the crop, so that the corner told to SDXL is the corner in the picture it sees
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.config.center_crop:
            top = left = 0.5
        y, x = int(top * (image.height - resolution + 1)), int(left * (image.width - resolution + 1))
        return image.crop((x, y, x + resolution, y + resolution)), ImageSize(height, width, y, x, resolution)


class StepSampler:
    """Batches of sample references for steps first_step..last_step of one process.

    The samples form one endless stream, epoch after epoch, each a fresh permutation. Step n always takes the same
    stretch of it, whatever the number of processes: `processes x accumulation` is what divides a step into batches.
    """

    def __init__(
        self, num_samples: int, batch_size: int, *, accumulation: int, process: tuple[int, int], steps: range, seed: int
    ) -> None:
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.accumulation = accumulation
        self.rank, self.num_processes = process
        self.steps = steps
        self.permutation = lru_cache(maxsize=2)(lambda epoch: np.random.default_rng([seed, epoch]).permutation(num_samples))

    def __len__(self) -> int:
        return len(self.steps) * self.accumulation

    def __iter__(self) -> Iterator[list[SampleRef]]:
        for step in self.steps:
            for micro in range(self.accumulation):
                batch = (step * self.accumulation + micro) * self.num_processes + self.rank
                yield [self._ref(batch * self.batch_size + i) for i in range(self.batch_size)]

    def _ref(self, position: int) -> SampleRef:
        epoch, offset = divmod(position, self.num_samples)
        return epoch, int(self.permutation(epoch)[offset])
