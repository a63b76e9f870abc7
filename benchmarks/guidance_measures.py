"""What is measured of pictures with guidance and with negative prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.methods.scoring import accuracy
from examples.shapes.evaluate import decode, generate
from examples.shapes.judge import Judge
from examples.shapes.render import BACKGROUNDS, CAPTIONS, COLORS, SHAPES, SIZE, caption
from lcm.outputs.gauges import within_prompt_variance

NUM_CAPTIONS = 48
SEEDS = 4
SPREAD = 37
"""Has no factor in common with the number of captions, so that every attribute comes in turn."""
OPEN = [(shape, background) for shape in SHAPES for background in BACKGROUNDS] * SEEDS
"""Shape and background of prompts that leave the colour open."""


def prompts_and_seeds() -> tuple[list[str], list[int]]:
    """Captions in turn, each with several seeds."""
    prompts = [CAPTIONS[i * SPREAD % len(CAPTIONS)] for i in range(NUM_CAPTIONS)] * SEEDS
    return prompts, list(range(len(prompts)))


def variance_within_prompts(latents: Tensor, prompts: int) -> float:
    """[seeds * prompts, ...], prompts in turn -> the unbiased variance over the pictures of one
    prompt, averaged over prompts, summed over dimensions.
    """
    by_prompt = latents.unflatten(0, (-1, prompts)).transpose(0, 1)
    return within_prompt_variance(by_prompt) * latents[0].numel()


def guided_row(pipe: Any, judge: Judge, steps: int, guidance: float) -> dict[str, Any]:
    """Accuracy, variance within prompts, mean and standard deviation of the latents by channel."""
    prompts, seeds = prompts_and_seeds()
    latents = generate(pipe, prompts, seeds, steps, guidance)
    return {
        **accuracy(judge.correct(decode(pipe, latents), prompts), prompts),
        "variance": round(variance_within_prompts(latents, NUM_CAPTIONS), 3),
        "mean": np.round(latents.mean(dim=(0, 2, 3)).numpy(), 4).tolist(),
        "std": np.round(latents.transpose(0, 1).flatten(1).std(dim=1).numpy(), 4).tolist(),
    }


def open_prompts() -> list[str]:
    """Prompts that leave the colour open."""
    return [f"a {shape} on a {background} background" for shape, background in OPEN]


def negative_prompts(color: str) -> list[str]:
    """What forbids a colour beside `open_prompts`, and nothing else that they ask for: the caption
    of another shape of this colour, on another background.
    """
    shapes, backgrounds = list(SHAPES), list(BACKGROUNDS)
    return [
        caption(
            (
                shapes[(shapes.index(shape) + 3) % len(shapes)],
                color,
                backgrounds[(backgrounds.index(background) + 2) % len(backgrounds)],
            )
        )
        for shape, background in OPEN
    ]


@torch.no_grad()
def negative_row(
    pipe: Any, judge: Judge, steps: int, guidance: float, forbidden: str | None
) -> dict[str, Any]:
    """How often a colour appears that the prompt leaves open, without and with a negative prompt
    that names it. None forbids the one that appears most often.
    """
    colors, without = list(COLORS), seen(pipe, judge, steps, guidance, None)
    if forbidden is None:
        forbidden = colors[int(np.bincount(without[:, 1], minlength=len(colors)).argmax())]
    with_it = seen(pipe, judge, steps, guidance, negative_prompts(forbidden))
    row: dict[str, Any] = {"forbidden": forbidden, "images": len(OPEN)}
    for name, found in (("without", without), ("with", with_it)):
        row[name] = round(float((found[:, 1] == colors.index(forbidden)).mean()), 4)
        kept = [
            (SHAPES.index(shape), list(BACKGROUNDS).index(background)) for shape, background in OPEN
        ]
        row[f"kept_{name}"] = round(float((found[:, [0, 2]] == kept).all(axis=1).mean()), 4)
    return row


def seen(
    pipe: Any, judge: Judge, steps: int, guidance: float, negative: list[str] | None
) -> np.ndarray:
    """What the judge sees on pictures of `open_prompts`: int [N, 3]."""
    latents = pipe(
        open_prompts(),
        negative_prompt=negative,
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=[torch.Generator().manual_seed(seed) for seed in range(len(OPEN))],
        height=SIZE,
        width=SIZE,
        output_type="latent",
    ).images
    return judge.predict(decode(pipe, latents))


def picture_of(
    pipe: Any, prompts: Sequence[str], seeds: Sequence[int], steps: int, guidance: Sequence[float]
) -> Image.Image:
    """A row for every prompt, a column for every guidance."""
    columns = [decode(pipe, generate(pipe, prompts, seeds, steps, scale)) for scale in guidance]
    sheet = Image.new("RGB", (len(columns) * SIZE, len(prompts) * SIZE))
    for x, column in enumerate(columns):
        for y, image in enumerate(column):
            sheet.paste(image, (x * SIZE, y * SIZE))
    return sheet
