"""Pictures from a base model with adapters: prompts x inference steps x seeds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.schedulers import KarrasDiffusionSchedulers
from PIL import Image

from lcm.adapter.locate import Located, look_up
from lcm.adapter.recipe import Recipe
from lcm.diffusion.grid import steps_of_call
from lcm.inference import SCHEDULERS
from lcm.inference.arguments import own_sides
from lcm.inference.attach import attach
from lcm.inference.grid import check_first_timestep
from lcm.inference.judge import sound
from lcm.inference.load import load
from lcm.inference.planned import Planned
from lcm.models.base_model import is_base
from lcm.models.long_prompts import prompt_arguments
from lcm.models.prompts import final_norm, said_already
from lcm.system.atomic import replacing
from lcm.system.paths import write_text
from lcm.system.registry import closest

USABLE = sorted({*SCHEDULERS, *(scheduler.name for scheduler in KarrasDiffusionSchedulers)})
"""Schedulers of diffusers for models with discrete timesteps."""


# --- with what ------------------------------------------------------------------------------------


def look_up_all(paths: Iterable[str]) -> list[Located]:
    """The adapters, each file read once. Raises FileNotFoundError, or ValueError for a base
    model and for a file that could not be attached.
    """
    names, found = list(paths), dict[str, Located]()
    for path in dict.fromkeys(names):
        if is_base(path):
            raise ValueError(f"adapter: {path} is a base model, not an adapter; pass it as --base")
        found[path] = look_up(path)
        if file := found[path].file:
            sound(file)
    return [found[path] for path in names]


def leading(adapters: Sequence[Located]) -> Recipe | None:
    """The recipe that says how to sample with several adapters: the first."""
    return next((found.recipe for found in adapters if found.recipe is not None), None)


def check_usable(adapters: Sequence[Located], scheduler: str | None, steps: Sequence[int]) -> None:
    """Raises ValueError for a scheduler that is none, for steps that the adapters have not, and
    where nothing says how to sample with them.
    """
    if scheduler is not None and scheduler not in USABLE:
        near = closest(scheduler, USABLE) or " One is LCMScheduler."
        raise ValueError(f"scheduler: there is no {scheduler!r} for these models.{near}")
    recipe = leading(adapters)
    if adapters and recipe is None and scheduler is None:
        raise ValueError(
            f"adapter: {adapters[0].source} carries no recipe: it was not written by this "
            "toolkit; say how it is played with --scheduler (LCMScheduler for an LCM-LoRA), or "
            "name an adapter that has a recipe beside it"
        )
    most = (
        recipe.scheduler_config.get("original_inference_steps")
        if recipe and scheduler is None
        else None
    )
    if most is not None and max(steps, default=0) > most:
        raise ValueError(
            f"steps: the adapter was trained on {most} solver steps; pass 1..{most}, not "
            f"{max(steps)}"
        )


def prepare(
    pipe: Any,
    adapters: Sequence[Located],
    weights: Sequence[float],
    scheduler: str | None,
) -> None:
    """Attaches the adapters and sets the scheduler: the one asked for, else that of the leading
    recipe, else the base's own.

    Raises ValueError for an adapter that does not fit.
    """
    recipe = leading(adapters)
    if adapters and recipe is None and scheduler in SCHEDULERS:
        recipe = replace(Recipe.lcm_lora(pipe), scheduler=str(scheduler), scheduler_config={})
    if recipe is None:
        load_styles(pipe, adapters, weights)
    else:
        pairs = zip(adapters, weights, strict=True)
        # the first is the one that the recipe is of
        order = sorted(pairs, key=lambda pair: pair[0].recipe != recipe)
        attach(pipe, dict(order), recipe=recipe)
    if scheduler is not None and scheduler != type(pipe.scheduler).__name__:
        pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config)


def load_styles(pipe: Any, adapters: Sequence[Located], weights: Sequence[float]) -> None:
    """Adapters of which none makes the base a few-step model."""
    names = [f"adapter_{number}" for number in range(1, len(adapters) + 1)]
    for found, name in zip(adapters, names, strict=True):
        assert found.file is not None  # a whole U-Net has a recipe
        load(pipe, found.file, name)
    if adapters:
        pipe.set_adapters(names, list(weights))


@dataclass(frozen=True)
class Settings:
    """What all pictures have in common. `height` and `width` in pixels, None for the side that the
    base draws at; `first_timestep` None for the scheduler's own.
    """

    guidance_scale: float
    eta: float = 0.0
    clip_skip: int | None = None
    prompt_chunks: int = 1
    negative_prompt: str | None = None
    height: int | None = None
    width: int | None = None
    first_timestep: int | None = None

    def with_size(self, pipe: Any) -> Settings:
        """The same with both sides stated: given one alone, the pipelines would leave it out.
        Raises ValueError where the base has none.
        """
        own = own_sides(pipe) if None in (self.height, self.width) else (0, 0)
        return replace(self, height=self.height or own[0], width=self.width or own[1])


def check_times(pipe: Any, pictures: Sequence[Planned], settings: Settings) -> None:
    """Raises ValueError where one of the pictures cannot begin at the first timestep asked for."""
    if settings.first_timestep is not None:
        for steps in dict.fromkeys(picture.steps for picture in pictures):
            check_first_timestep(pipe.scheduler, settings.first_timestep, steps)


# --- drawing --------------------------------------------------------------------------------------


def draw(
    pipe: Any, pictures: Sequence[Planned], settings: Settings, batch_size: int
) -> Iterator[tuple[Planned, Image.Image]]:
    """Draws each from noise of `torch.Generator("cpu").manual_seed(seed)`, so that it depends
    neither on the batch nor on the device.
    """
    for steps in dict.fromkeys(picture.steps for picture in pictures):
        alike = [picture for picture in pictures if picture.steps == steps]
        for start in range(0, len(alike), batch_size):
            batch = alike[start : start + batch_size]
            yield from zip(batch, draw_batch(pipe, batch, settings), strict=True)


@torch.no_grad()
def draw_batch(
    pipe: Any, batch: Sequence[Planned], settings: Settings, **options: Any
) -> list[Image.Image]:
    """Draws pictures of one number of steps in one call of the pipeline, which is passed the other
    `options`.
    """
    ours = asdict(settings)
    negative, clip_skip, chunks, _ = (
        ours.pop(name)
        for name in ("negative_prompt", "clip_skip", "prompt_chunks", "first_timestep")
    )
    texts = prompt_arguments(
        pipe,
        [picture.prompt for picture in batch],
        None if negative is None else [negative] * len(batch),
        chunks=chunks,
        clip_skip=clip_skip,
        guided=settings.guidance_scale > 1 and pipe.unet.config.time_cond_proj_dim is None,
    )
    with final_norm(pipe), said_already(pipe):
        images: list[Image.Image] = pipe(
            **texts,
            **steps_of_call(batch[0].steps, settings.first_timestep, pipe.scheduler.config),
            generator=[torch.Generator("cpu").manual_seed(picture.seed) for picture in batch],
            **ours,
            **options,
        ).images
    return images


def parameters(
    picture: Planned,
    size: tuple[int, int],
    settings: Settings,
    scheduler: str,
    base: str,
    adapters: str,
) -> str:
    """What a picture was drawn with, in the words of A1111, which many viewers read."""
    facts = {
        "Steps": picture.steps,
        **({"First timestep": settings.first_timestep} if settings.first_timestep else {}),
        "Sampler": scheduler.removesuffix("Scheduler"),
        "CFG scale": f"{settings.guidance_scale:g}",
        "Seed": picture.seed,
        **({"Clip skip": settings.clip_skip + 1} if settings.clip_skip else {}),
        "Size": f"{size[0]}x{size[1]}",
        "Model": Path(base).stem,
        **({"Adapters": json.dumps(adapters, ensure_ascii=False)} if adapters else {}),
    }
    negative = f"\nNegative prompt: {settings.negative_prompt}" if settings.negative_prompt else ""
    return f"{picture.prompt}{negative}\n" + ", ".join(
        f"{name}: {value}" for name, value in facts.items()
    )


def write_json(path: Path, content: dict[str, Any]) -> None:
    with replacing(path) as partial:
        write_text(partial, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
