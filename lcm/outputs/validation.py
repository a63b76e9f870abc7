"""Validation pictures: a grid of prompts x inference steps through the stock pipeline, with fixed
seeds.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from accelerate.utils import gather_object
from PIL import Image
from torch import Tensor

from lcm.adapter.recipe import Recipe
from lcm.config.output_sections import ValidationConfig
from lcm.data.records import Record
from lcm.diffusion.grid import steps_of_call
from lcm.models.families import Family
from lcm.models.families.base import PIXELS_AT_ONCE
from lcm.models.long_prompts import prompt_arguments
from lcm.models.prompts import final_norm, said_already
from lcm.outputs.gauges import PROMPTS, SEEDS, TEACHER, Values, compare
from lcm.system.image_grid import draw_labelled, fitting
from lcm.system.signals import never
from lcm.system.text import count, prompt_words
from lcm.system.transfers import fetched


def prompts_of(records: list[Record], count: int = 4) -> list[str]:
    """Captions out of the data, always the same, for a validation grid without prompts of its
    own.
    """
    captions = list(dict.fromkeys(record.captions[0] for record in records))
    return random.Random(0).sample(captions, min(count, len(captions)))


@dataclass(frozen=True)
class GridSpec:
    """What a validation grid shows: rows are prompts, columns inference steps, every picture from
    the same seed. With `num_images` above 1, the seeds behind it are drawn too, to be measured.
    What is not to be shown is not decoded.
    """

    prompts: Sequence[str]
    num_steps: Sequence[int]
    seed: int
    resolution: int
    guidance_scale: float
    eta: float = 0.0
    clip_skip: int | None = None
    prompt_chunks: int = 1
    num_images: int = 1
    is_shown: bool = True
    first_timestep: int | None = None

    @classmethod
    def of(cls, recipe: Recipe, validation: ValidationConfig, prompts: Sequence[str]) -> GridSpec:
        """What a grid shows of a student that is played as the recipe says."""
        return cls(
            prompts=prompts,
            num_steps=validation.validation_num_steps,
            seed=validation.validation_seed,
            resolution=recipe.resolution,
            guidance_scale=recipe.guidance_scale,
            eta=recipe.eta,
            clip_skip=recipe.clip_skip,
            prompt_chunks=recipe.prompt_chunks,
            num_images=validation.num_images,
            first_timestep=recipe.first_timestep,
        )

    @property
    def seeds(self) -> range:
        """The seeds of every prompt; pictures are shown of the first."""
        return range(self.seed, self.seed + self.num_images)

    @property
    def at_once(self) -> int:
        """So many pictures go through the U-Net in one call, and one of a large size: drawing must
        not need more memory than training.
        """
        return max(1, PIXELS_AT_ONCE // self.resolution**2)


class Row(NamedTuple):
    """What was drawn of a prompt: by columns, the picture of the first seed where it is shown, and
    the latents [S, C, h, w] of all, float32 on the CPU, at unit scale.
    """

    pictures: list[Image.Image]
    latents: list[Tensor]


def said_to(pipe: Any, prompt: str, spec: GridSpec) -> dict[str, Any]:
    """The arguments of a call of the pipeline that say what to draw."""
    return prompt_arguments(
        pipe,
        [prompt],
        chunks=spec.prompt_chunks,
        clip_skip=spec.clip_skip,
        guided=spec.guidance_scale > 1,
    )


@torch.no_grad()
def draw_latents(pipe: Any, text: dict[str, Any], spec: GridSpec, num_steps: int) -> Tensor:
    """[S, C, h, w] of one prompt, whose arguments of the pipeline are `text`: every one from
    `torch.Generator("cpu").manual_seed(seed)`.
    """
    parts = []
    for start in range(0, spec.num_images, spec.at_once):
        seeds = spec.seeds[start : start + spec.at_once]
        with final_norm(pipe), said_already(pipe):
            parts.append(
                pipe(
                    **text,
                    num_images_per_prompt=len(seeds),
                    **steps_of_call(num_steps, spec.first_timestep, pipe.scheduler.config),
                    guidance_scale=spec.guidance_scale,
                    eta=spec.eta,
                    height=spec.resolution,
                    width=spec.resolution,
                    generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
                    output_type="latent",
                ).images
            )
    return torch.cat(parts)


@torch.no_grad()
def draw_row(
    family: Family, pipe: Any, prompt: str, spec: GridSpec, asked: Callable[[], bool] = never
) -> Row | None:
    """One entry per entry of `num_steps`. None when `asked` to stop before the last one."""
    text = said_to(pipe, prompt, spec)
    row = Row([], [])
    for n in spec.num_steps:
        if asked():
            return None
        latents = draw_latents(pipe, text, spec, n)
        if spec.is_shown:
            row.pictures.extend(family.decode(latents[:1]))
        row.latents.append(fetched(latents).float())
    return row


def draw_grid(
    family: Family,
    pipe: Any,
    spec: GridSpec,
    process: tuple[int, int] = (0, 1),
    asked: Callable[[], bool] = never,
) -> list[Row] | None:
    """The rows of the grid. They are shared out over the processes (rank, count); each returns
    them all, or None when one of them was `asked` to stop and left a row out.
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
    return [row for _, row in rows]


def latents_in(rows: Sequence[Row], column: int) -> Tensor:
    """[N, S, C, h, w] of one column."""
    return torch.stack([row.latents[column] for row in rows])


def values_of(spec: GridSpec, rows: Sequence[Row], teacher: Sequence[Row]) -> Values:
    """How what was drawn differs from the teacher's, and how much was drawn."""
    student = {n: latents_in(rows, i) for i, n in enumerate(spec.num_steps)}
    values = compare(student, latents_in(teacher, 0))
    return {**values, PROMPTS: len(spec.prompts), SEEDS: spec.num_images}


@dataclass(frozen=True)
class Teachers:
    """The teacher's pictures of the same prompts and seeds, in so many steps."""

    rows: Sequence[Row]
    num_steps: int


def label_grid(
    spec: GridSpec, rows: Sequence[Row], teacher: Teachers | None, title: str = ""
) -> Image.Image:
    """One picture of the rows, with what they are; first in each, apart, that of the teacher from
    the same seed, where there is one.
    """
    columns = [count(n, "step") for n in spec.num_steps]
    images = [list(row.pictures) for row in rows]
    if teacher is not None:
        columns = [f"{TEACHER}, {count(teacher.num_steps, 'step')}", *columns]
        firsts = (row.pictures[:1] for row in teacher.rows)
        images = [theirs + mine for theirs, mine in zip(firsts, images, strict=True)]
    size = fitting(images[0][0].size, len(rows), len(columns))
    flat = [image for row in images for image in row]
    apart = 0 if teacher is None else 1
    beside = list(map(prompt_words, spec.prompts))
    return draw_labelled(flat, size, beside, columns, title=title, apart=apart)
