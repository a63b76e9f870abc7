"""Validation pictures: a grid of prompts x inference steps through the stock pipeline, with fixed
seeds.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import gather_object
from PIL import Image

from lcm.data.records import Record
from lcm.models.families import Family
from lcm.models.long_prompts import prompt_arguments
from lcm.models.prompts import final_norm, said_already
from lcm.system.image_grid import draw_images
from lcm.system.signals import never


def prompts_of(records: list[Record], count: int = 4) -> list[str]:
    """Captions out of the data, always the same, for a validation grid without prompts of its
    own.
    """
    captions = list(dict.fromkeys(record.captions[0] for record in records))
    return random.Random(0).sample(captions, min(count, len(captions)))


@dataclass(frozen=True)
class GridSpec:
    """What a validation grid shows: rows are prompts, columns inference steps, every picture from
    the same seed.
    """

    prompts: Sequence[str]
    num_steps: Sequence[int]
    seed: int
    resolution: int
    guidance_scale: float
    eta: float = 0.0
    clip_skip: int | None = None
    prompt_chunks: int = 1


@torch.no_grad()
def draw_row(
    family: Family, pipe: Any, prompt: str, spec: GridSpec, asked: Callable[[], bool] = never
) -> list[Image.Image] | None:
    """One picture per entry of `num_steps`, every one from
    `torch.Generator("cpu").manual_seed(seed)`. None when `asked` to stop before the last one.
    """
    text = prompt_arguments(
        pipe,
        [prompt],
        chunks=spec.prompt_chunks,
        clip_skip=spec.clip_skip,
        guided=spec.guidance_scale > 1,
    )
    images = []
    for n in spec.num_steps:
        if asked():
            return None
        with final_norm(pipe), said_already(pipe):
            latents = pipe(
                **text,
                num_inference_steps=n,
                guidance_scale=spec.guidance_scale,
                eta=spec.eta,
                height=spec.resolution,
                width=spec.resolution,
                generator=torch.Generator("cpu").manual_seed(spec.seed),
                output_type="latent",
            ).images
        images += family.decode(latents)
    return images


def draw_grid(
    family: Family,
    pipe: Any,
    spec: GridSpec,
    process: tuple[int, int] = (0, 1),
    asked: Callable[[], bool] = never,
) -> Image.Image | None:
    """The grid as one picture. The rows are shared out over the processes (rank, count); each
    returns the whole, or None when one of them was `asked` to stop and left a row out.
    """
    rank, num_processes = process
    drawn = [
        (i, draw_row(family, pipe, spec.prompts[i], spec, asked))
        for i in range(rank, len(spec.prompts), num_processes)
    ]
    mine = [(i, row) for i, row in drawn if row is not None]
    rows = sorted(gather_object(mine) if num_processes > 1 else mine, key=lambda row: row[0])
    if len(rows) < len(spec.prompts):
        return None
    images = [image for _, row in rows for image in row]
    return draw_images(images, len(spec.num_steps), images[0].size)
