"""Validation pictures: a grid of prompts x inference steps through the stock pipeline, with fixed seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import gather_object
from diffusers.utils import make_image_grid
from PIL import Image


@torch.no_grad()
def draw_row(pipe: Any, prompt: str, num_steps: Sequence[int], *, seed: int, resolution: int, guidance_scale: float) -> list[Image.Image]:
    """One picture per entry of `num_steps`, every one from `torch.Generator("cpu").manual_seed(seed)`."""
    return [
        pipe(
            prompt,
            num_inference_steps=n,
            guidance_scale=guidance_scale,
            height=resolution,
            width=resolution,
            generator=torch.Generator("cpu").manual_seed(seed),
        ).images[0]
        for n in num_steps
    ]


def draw_grid(
    pipe: Any,
    prompts: Sequence[str],
    num_steps: Sequence[int],
    *,
    process: tuple[int, int] = (0, 1),
    **options: Any,
) -> Image.Image:
    """Rows are prompts, columns inference steps. The rows are shared out over the processes; each returns the whole."""
    rank, num_processes = process
    mine = [(i, draw_row(pipe, prompts[i], num_steps, **options)) for i in range(rank, len(prompts), num_processes)]
    rows = sorted(gather_object(mine) if num_processes > 1 else mine, key=lambda row: row[0])
    return make_image_grid([image for _, images in rows for image in images], rows=len(prompts), cols=len(num_steps))
