"""The tiny world on a device: its teacher, pictures and captions encoded beforehand, and batches
that follow from the number of the update alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.plan import Bench
from benchmarks.gpu.worlds import make_run, precision_of, twin
from examples.shapes.demo import TEACHER
from examples.shapes.render import render, sample_dataset
from lcm.data.batch import Moments, SampleBatch
from lcm.models.conditioning import ImageSize
from lcm.models.families import Family, load_family
from lcm.training.inputs import DTYPES
from lcm.training.run import Run
from lcm.training.state import TrainState

SIDE = 64


@dataclass(frozen=True)
class Shapes:
    """The encoded pictures: moments [N, 2C, h, w] on the device, captions, and what the text
    encoder says of each caption.
    """

    bench: Bench
    family: Family
    precision: str
    captions: list[str]
    moments: Tensor
    embeds: dict[str, dict[str, Tensor]]

    @classmethod
    @torch.no_grad()
    def make(cls, bench: Bench, precision: str, count: int) -> Shapes:
        """Draws `count` pictures and encodes them."""
        dtype = DTYPES[precision_of(bench, precision)]
        family = load_family(str(TEACHER), dtype=dtype)
        family.pipe.to(bench.device.torch)
        scenes = sample_dataset(count, 0)
        pixels = torch.from_numpy(np.stack([render(scene) for scene in scenes]))
        pixels = pixels.permute(0, 3, 1, 2).to(bench.device.torch).float() / 127.5 - 1.0
        captions = [scene.caption for scene in scenes]
        embeds = {text: family.embed_prompts([text]) for text in dict.fromkeys(captions)}
        return cls(bench, family, precision, captions, family.image_moments(pixels), embeds)

    def run(self, batch: int, **flags: Any) -> tuple[Run, TrainState]:
        """A new run from the same first adapter."""
        return make_run(
            self.bench, twin(self.family), batch, self.precision, resolution=SIDE, **flags
        )

    def batch(self, step: int, size: int) -> SampleBatch:
        """The batch of an update."""
        device = self.bench.device.torch
        generator = torch.Generator().manual_seed(step)
        rows = torch.randint(len(self.captions), (size,), generator=generator).tolist()
        prompts = [self.captions[row] for row in rows]
        shape = (size, *self.family.latent_shape(SIDE))

        def normal() -> Tensor:
            return torch.randn(shape, generator=generator).to(device)

        def uniform() -> Tensor:
            return torch.rand(size, generator=generator).to(device)

        names = self.embeds[prompts[0]]
        return SampleBatch(
            keys=[str(row) for row in rows],
            prompts=prompts,
            sizes=[ImageSize(SIDE, SIDE, 0, 0, SIDE, SIDE)] * size,
            content=Moments(self.moments[rows]),
            embeds={
                name: torch.cat([self.embeds[prompt][name] for prompt in prompts]) for name in names
            },
            posterior_noise=normal(),
            noise=normal(),
            uniform_time=uniform(),
            uniform_guidance=uniform(),
            uniform_landing=uniform(),
            extra_noise=normal()[:, None],
        )
