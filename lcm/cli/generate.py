"""Pictures from a base model, with adapters or without."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from lcm.adapter.recipe import CallDefaults, Recipe
from lcm.cli.arguments import add_adapters, add_base, add_device, add_sizes, load_pipe, read_weights
from lcm.system.console import tell
from lcm.system.flags import within
from lcm.system.words import file_path, number, one_of, prompt, text, whole

HELP = "draw pictures with a base model and adapters"
EXAMPLE = (
    "lcm generate --base someone/sd15 --adapter out/ \\\n"
    '  --prompt "a lighthouse at dusk" --steps 1 2 4 8 --output pictures/'
)


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_base(parser, "what the pictures are drawn with", required=True)
    add_adapters(parser, "; default weight: 1")
    prompts = parser.add_mutually_exclusive_group(required=True)
    prompts.add_argument(
        "--prompt",
        type=prompt,
        nargs="+",
        action="extend",
        help="one picture for each, and for each of --steps and --seeds",
    )
    prompts.add_argument("--prompts_file", type=file_path, help="text file, one prompt a line")
    add(
        "--negative_prompt",
        type=prompt,
        help="what to keep away from; needs a guidance_scale above 1",
    )
    steps_help = (
        "inference steps, the columns of the grid; default: what the adapter's recipe names"
    )
    positive = within(whole, at_least=1, at_most=1000)
    add("--steps", type=positive, nargs="+", action="extend", help=steps_help)
    add(
        "--first_timestep",
        type=within(whole, at_least=1, at_most=999),
        help="where the steps begin, with LCMScheduler or TCDScheduler; 699 makes better "
        "pictures in one step with an adapter of another epsilon model; default: 999",
    )
    add(
        "--seeds",
        "--seed",
        type=within(whole, at_least=0, at_most=2**63 - 1),
        nargs="+",
        action="extend",
        help="a picture from each; default: 0",
    )
    add(
        "--guidance_scale",
        type=within(number, at_least=0, at_most=1000),
        help="default: the recipe's; 7.5 without adapters",
    )
    add(
        "--clip_skip",
        type=within(whole, at_least=0, at_most=100),
        help='last layers of the text encoders to leave out, as diffusers counts them; 1 is "Clip '
        "skip 2\" of web UIs; default: the recipe's, else none",
    )
    add(
        "--long_prompts",
        type=one_of("truncate", "chunks"),
        choices=["truncate", "chunks"],
        help="of prompts longer than 75 tokens leave out the rest, or draw all of it, in up "
        "to 4 chunks of 75 (needs the package compel); default: as the adapter was trained, else "
        "truncate",
    )
    add(
        "--scheduler",
        type=text,
        help="a class of diffusers, for example DDIMScheduler; default: the recipe's, or the "
        "base's own",
    )
    add_sizes(parser, "what the adapter was trained at, or the base draws at")
    add_device(parser)
    add(
        "--output",
        type=file_path,
        required=True,
        metavar="DIR",
        help="folder of the pictures, the grids and images.json",
    )
    add("--overwrite", action="store_true", help="replace pictures of the same names")


def settings_of(args: argparse.Namespace, recipe: Recipe | None, defaults: CallDefaults) -> Any:
    """What all pictures have in common. Raises ValueError for a negative prompt without effect."""
    from lcm.inference.generate import Settings

    settings = Settings(
        guidance_scale=first_of(args.guidance_scale, defaults.guidance_scale),
        eta=defaults.eta,
        clip_skip=first_of(args.clip_skip, defaults.clip_skip) or None,
        prompt_chunks=recipe.prompt_chunks if recipe else 1,
        negative_prompt=args.negative_prompt,
        height=first_of(args.height, recipe and recipe.resolution),
        width=first_of(args.width, recipe and recipe.resolution),
        first_timestep=args.first_timestep,
    )
    if settings.negative_prompt is not None and settings.guidance_scale <= 1:
        raise ValueError(
            f"negative_prompt has no effect at guidance_scale {settings.guidance_scale:g}; pass a "
            "larger one"
        )
    return settings


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    args.seeds = args.seeds or [0]
    from lcm.data.sources.prompts import read_prompts
    from lcm.formats.misfit import check_widths
    from lcm.inference.devices import choose_device, choose_dtype
    from lcm.inference.generate import (
        check_times,
        check_usable,
        leading,
        look_up_all,
        prepare,
    )
    from lcm.inference.planned import check_names_free, plan
    from lcm.inference.schedulers import FEW_STEP
    from lcm.inference.texts import settle_texts
    from lcm.models.prompts import check_clip_skip
    from lcm.system.lock import alone_in

    weights = read_weights(args.adapter)
    adapters = look_up_all(weights)
    check_usable(adapters, args.scheduler, args.steps or [])
    recipe = leading(adapters)
    stock = CallDefaults() if args.scheduler in FEW_STEP else CallDefaults(50, 7.5)
    defaults = recipe.call_defaults() if recipe else stock
    settings = settings_of(args, recipe, defaults)
    prompts = args.prompt or [prompt for prompt in read_prompts(args.prompts_file) if prompt]
    pictures = plan(prompts, args.steps or [defaults.num_inference_steps], args.seeds)
    with alone_in(args.output, "output"):
        if not args.overwrite:
            check_names_free(args.output, pictures)
        device = choose_device(args.device)
        check_widths(args.base, (found.file for found in adapters if found.file is not None))
        pipe = load_pipe(args, choose_dtype(args.dtype, device))
        check_clip_skip(pipe, settings.clip_skip)
        prepare(pipe, adapters, list(weights.values()), args.scheduler)
        check_times(pipe, pictures, settings)
        settings, problem = settle_texts(pipe, prompts, settings, args.long_prompts)
        if problem is not None:
            tell(f"warning: {problem}")
        pipe.to(device)
        pipe.set_progress_bar_config(disable=True)
        write(pipe, pictures, settings.with_size(pipe), args, weights)
    return 0


def write(
    pipe: Any,
    pictures: Sequence[Any],
    settings: Any,
    args: argparse.Namespace,
    adapters: dict[str, float],
) -> None:
    """Draws, and writes every file as soon as it is known; the index comes last."""
    from tqdm.auto import tqdm

    from lcm.inference.generate import draw, parameters, write_json
    from lcm.inference.planned import INDEX_NAME, draw_seed_grid, grid_name
    from lcm.system.image_grid import save_png

    scheduler, entries = type(pipe.scheduler).__name__, []
    named = ", ".join(f"{name}={weight:g}" for name, weight in adapters.items())
    shows_bar = sys.stderr.isatty()
    with tqdm(
        total=len(pictures), unit="picture", disable=not shows_bar, dynamic_ncols=True
    ) as bar:
        for picture, image in draw(pipe, pictures, settings, args.batch_size):
            file = args.output / picture.name
            save_png(
                image, file, parameters(picture, image.size, settings, scheduler, args.base, named)
            )
            width, height = image.size
            entries.append(
                {"file": picture.name, **vars(picture), "width": width, "height": height}
            )
            bar.update()
            if not shows_bar:
                print(file, flush=True)
    # the grids are made of the files, since a picture that is done is not kept in memory
    for seed in dict.fromkeys(picture.seed for picture in pictures):
        save_png(
            draw_seed_grid(args.output, [p for p in pictures if p.seed == seed]),
            args.output / grid_name(seed),
        )
        print(args.output / grid_name(seed))
    facts = {
        **{name: getattr(args, name) for name in ("base", "base_config", "negative_prompt")},
        **{
            "adapters": adapters,
            "scheduler": scheduler,
            "guidance_scale": settings.guidance_scale,
            "eta": settings.eta,
            "first_timestep": settings.first_timestep,
            "clip_skip": settings.clip_skip,
            "prompt_chunks": settings.prompt_chunks,
        },
    }
    write_json(args.output / INDEX_NAME, {**facts, "images": entries})


def first_of(*values: Any) -> Any:
    """The first that is not None, and None if none is."""
    return next((value for value in values if value is not None), None)
