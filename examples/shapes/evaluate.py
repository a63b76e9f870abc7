"""Scores a teacher, or a teacher with an adapter, by the judge and by its distance to the teacher's
own pictures.

    python -m examples.shapes.evaluate --teacher examples/shapes/teacher --guidance_scales 3 4 5
    python -m examples.shapes.evaluate --teacher examples/shapes/teacher --adapter out/shapes

`--world patterns` is for a teacher of that world.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import diffusers
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import lcm
from examples.shapes.judge import Judge
from examples.shapes.render import WORLD
from examples.worlds import World, add_world_flag, load_world
from lcm.evaluation.subjects import is_paired
from lcm.models import load_base
from lcm.system.console import hide_loading_bars

TEACHER_STEPS = 40


def load_pipe(teacher: Path) -> Any:
    """The stock pipeline in float32, without progress bars and hints."""
    diffusers.utils.logging.set_verbosity_error()
    hide_loading_bars(str(teacher))
    pipe = load_base(teacher)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def prompts_and_seeds(num_images: int, world: World = WORLD) -> tuple[list[str], list[int]]:
    """The captions in turn, every picture with a seed of its own."""
    captions = world.captions
    return [captions[i % len(captions)] for i in range(num_images)], list(range(num_images))


@torch.no_grad()
def generate(
    pipe: Any,
    prompts: Sequence[str],
    seeds: Sequence[int],
    num_steps: int,
    guidance_scale: float,
    batch_size: int = 96,
    eta: float = 0.0,
    timesteps: list[int] | None = None,
) -> Tensor:
    """Final latents [N, 4, 8, 8]. Picture i depends on prompts[i] and seeds[i] alone. Schedulers
    without an eta ignore it. `timesteps` are in the place of the scheduler's own.
    """
    parts = []
    for start in range(0, len(prompts), batch_size):
        rows = slice(start, start + batch_size)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds[rows]]
        parts.append(
            pipe(
                list(prompts[rows]),
                num_inference_steps=num_steps,
                timesteps=timesteps,
                guidance_scale=guidance_scale,
                eta=eta,
                generator=generators,
                height=64,
                width=64,
                output_type="latent",
            ).images
        )
    return torch.cat(parts)


def teacher_endpoints(
    teacher: Path,
    num_images: int,
    guidance_scale: float,
    cache_dir: Path = Path("out/endpoints"),
    world: World = WORLD,
) -> Tensor:
    """What the teacher draws in 40 steps for `prompts_and_seeds`, [N, 4, 8, 8]; minutes of work, so
    it is kept on disk.
    """
    pipe = load_pipe(teacher)
    weights = sha256(
        (teacher / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    ).hexdigest()[:12]
    path = cache_dir / f"{weights}-{num_images}-{guidance_scale:g}.safetensors"
    if not path.exists():
        prompts, seeds = prompts_and_seeds(num_images, world)
        latents = generate(pipe, prompts, seeds, TEACHER_STEPS, guidance_scale)
        cache_dir.mkdir(parents=True, exist_ok=True)
        # others may want the same file; complete or not at all
        partial = path.with_suffix(f".{os.getpid()}")
        save_file({"latents": latents}, partial)
        partial.replace(path)
    return load_file(path)["latents"]


@torch.no_grad()
def decode(pipe: Any, latents: Tensor, batch_size: int = 96) -> list[Image.Image]:
    """Latents at unit scale -> pictures."""
    images: list[Image.Image] = []
    for part in latents.split(batch_size):
        pixels = pipe.vae.decode(part.to(pipe.vae.dtype) / pipe.vae.config.scaling_factor).sample
        images += pipe.image_processor.postprocess(pixels, output_type="pil")
    return images


def interval(accuracy: float, count: int) -> float:
    """Half width of the 95 % interval of a share."""
    return 1.96 * math.sqrt(max(accuracy * (1 - accuracy), 1 / count) / count)


def endpoint_nmse(student: Tensor, teacher: Tensor, other_seed: Tensor) -> float:
    """|z_S - z_T|^2 / |z_T(seed a) - z_T(seed b)|^2 over the set: 0 is a copy, 1 an unrelated
    picture of the same prompt.
    """
    return float((student - teacher).square().mean() / (teacher - other_seed).square().mean())


def check_several_of_each(pictures: Tensor, world: World) -> int:
    """The number of captions. Raises ValueError unless every one has the same number of pictures,
    two at least.
    """
    number = len(world.captions)
    if len(pictures) % number or len(pictures) < 2 * number:
        raise ValueError(
            f"need a multiple of {number} pictures, at least {2 * number}; got {len(pictures)}"
        )
    return number


def other_seeds(reference: Tensor, world: World = WORLD) -> Tensor:
    """The same prompts with other seeds, out of a set made with `prompts_and_seeds`. Raises
    ValueError for too small a set.
    """
    return reference.roll(check_several_of_each(reference, world), 0)


def within_prompt_variance(values: Tensor, world: World = WORLD) -> float:
    """[N, ...] -> unbiased variance over the pictures of one caption, averaged over captions,
    summed over dimensions.

    Raises ValueError unless N is a multiple of the number of captions and at least twice that.
    """
    number = check_several_of_each(values, world)
    by_prompt = values.double().reshape(-1, number, values[0].numel())
    return float(by_prompt.var(dim=0, unbiased=True).sum(dim=1).mean())


def diversity_ratio(student: Tensor, teacher: Tensor, world: World = WORLD) -> float:
    """Within-prompt variance of the student over that of the teacher, both [N, ...]: 1 is as
    varied, 0 always the same picture.
    """
    return within_prompt_variance(student, world) / within_prompt_variance(teacher, world)


def score(
    pipe: Any,
    judge: Judge,
    num_images: int,
    num_steps: int,
    guidance_scale: float,
    eta: float = 0.0,
) -> tuple[dict[str, Any], Tensor]:
    """One row of a table, for the judge's world, and the latents behind it."""
    prompts, seeds = prompts_and_seeds(num_images, judge.world)
    latents = generate(pipe, prompts, seeds, num_steps, guidance_scale, eta=eta)
    return judged(pipe, judge, latents, num_steps, guidance_scale), latents


def judged(
    pipe: Any, judge: Judge, latents: Tensor, num_steps: int, guidance_scale: float
) -> dict[str, Any]:
    """The row of a table for latents of `prompts_and_seeds`."""
    num_images = len(latents)
    correct = judge.correct(decode(pipe, latents), prompts_and_seeds(num_images, judge.world)[0])
    accuracy = float(correct.all(axis=1).mean())
    return {
        "steps": num_steps,
        "guidance_scale": guidance_scale,
        "images": num_images,
        "all_right": round(accuracy, 4),
        "plus_minus": round(interval(accuracy, num_images), 4),
        **dict(zip(judge.world.heads, correct.mean(axis=0).round(4).tolist(), strict=True)),
    }


def score_adapter(
    teacher: Path,
    adapter: Path,
    num_images: int,
    num_steps: Sequence[int],
    world: World = WORLD,
) -> list[dict[str, Any]]:
    """Accuracy and diversity at every number of steps, then the teacher's own row at its 40 steps
    and the same guidance.

    Where no noise is added on the way, also the distance to the teacher's picture of the same seed.
    """
    judge, pipe = Judge.load(world=world), load_pipe(teacher)
    guidance_scale = lcm.read_recipe(adapter).trained_guidance_scale[0]
    reference = teacher_endpoints(teacher, num_images, guidance_scale, world=world)
    recipe = lcm.attach(pipe, adapter)
    rows = []
    for n in num_steps:
        row, latents = score(pipe, judge, num_images, n, recipe.guidance_scale, recipe.eta)
        row["diversity_ratio"] = round(diversity_ratio(latents, reference, world), 4)
        if is_paired(recipe.scheduler, recipe.eta, n):
            row["endpoint_nmse"] = round(
                endpoint_nmse(latents, reference, other_seeds(reference, world)), 4
            )
        rows.append(row)
        print(json.dumps(row), flush=True)
    rows.append({"teacher": True, **judged(pipe, judge, reference, TEACHER_STEPS, guidance_scale)})
    return rows


def score_teacher(
    teacher: Path,
    num_images: int,
    num_steps: Sequence[int],
    guidance_scales: Sequence[float],
    world: World = WORLD,
) -> list[dict[str, Any]]:
    """Accuracy of the teacher itself at every guidance and number of steps."""
    judge, pipe = Judge.load(world=world), load_pipe(teacher)
    rows = []
    for guidance_scale in guidance_scales:
        for n in num_steps:
            rows.append(score(pipe, judge, num_images, n, guidance_scale)[0])
            print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument(
        "--adapter",
        type=Path,
        help="output folder or file of a run; without it the teacher itself is scored",
    )
    parser.add_argument("--num_steps", type=int, nargs="+", default=[TEACHER_STEPS])
    parser.add_argument(
        "--guidance_scales",
        type=float,
        nargs="+",
        default=[5.0],
        help="of the teacher; adapters play at 1",
    )
    parser.add_argument("--num_images", type=int, default=1536)
    parser.add_argument("--output", type=Path, help="JSON file for the rows")
    add_world_flag(parser)
    args = parser.parse_args()
    world = load_world(args.world)
    if args.adapter:
        rows = score_adapter(args.teacher, args.adapter, args.num_images, args.num_steps, world)
    else:
        rows = score_teacher(
            args.teacher, args.num_images, args.num_steps, args.guidance_scales, world
        )
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
