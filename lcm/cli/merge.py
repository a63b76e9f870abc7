"""Merging an adapter into a base, or several adapters into one."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from lcm.adapter.recipe import Recipe
from lcm.cli.arguments import (
    LARGEST_RANK,
    add_base,
    add_writing,
    dtype_of,
    factor,
    load_pipe,
    print_written,
    read,
)
from lcm.system.flags import within
from lcm.system.paths import write_text
from lcm.system.words import file_path, place, whole

HELP = "add an adapter to a base model's weights, or several adapters to one"
EXAMPLE = "lcm merge out/ style.safetensors --weights 1.0 0.8 --output merged.safetensors"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "adapters",
        nargs="+",
        type=place,
        help="one with --base, two or more without: files, folders or hub ids",
    )
    add_base(parser, "the result is a base model with the adapters in it")
    parser.add_argument(
        "--weights", type=factor, nargs="+", help="one for each adapter; default: 1"
    )
    parser.add_argument(
        "--rank",
        type=within(whole, at_least=1, at_most=LARGEST_RANK),
        help="rank of the merged adapter; default: the sum of the ranks, which is exact",
    )
    parser.add_argument(
        "--output",
        type=file_path,
        required=True,
        help="with --base a folder, else a file or a folder for it",
    )
    add_writing(parser)


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    weights = args.weights or [1.0] * len(args.adapters)
    if len(weights) != len(args.adapters):
        raise ValueError(
            f"--weights: {len(weights)} for {len(args.adapters)} adapters; pass one for each"
        )
    if args.base is None and len(args.adapters) == 1:
        raise ValueError(
            "one adapter alone: pass --base to merge it into a model, or more adapters; lcm resize "
            "changes the rank"
        )
    if args.base is not None and args.rank is not None:
        raise ValueError("--rank is of a merged adapter; with --base there is none, leave it out")
    return into_base(args, weights) if args.base else into_adapter(args, weights)


def into_base(args: argparse.Namespace, weights: list[float]) -> int:
    """Writes a plain diffusers folder whose scheduler is that of the recipe; lcm.attach knows the
    folder, too.
    """
    import torch

    from lcm.adapter.files import AdapterFile
    from lcm.adapter.locate import find
    from lcm.adapter.names import RECIPE_NAME, UNET_FOLDER
    from lcm.formats.misfit import check_widths
    from lcm.formats.write import check_free

    check_free(
        args.output, [Path(args.base), *map(Path, args.adapters)], args.force, "model_index.json"
    )
    check_widths(args.base, (AdapterFile.read(find(name)) for name in args.adapters))
    from lcm.formats.apply import adapted_kinds, add_deltas
    from lcm.formats.coverage import pruned_warning
    from lcm.inference import fitting_scheduler
    from lcm.libraries.transformers import save_for_all
    from lcm.system.lock import replacing_alone

    pipe = load_pipe(args)
    recipe = None
    for name, weight in zip(args.adapters, weights, strict=True):
        adapter = read(args, name, pipe.unet.config.layers_per_block)
        # one of them says how the sum is sampled with; styles carry no recipe
        if recipe is None and (recipe := Recipe.from_header(adapter.header, name)):
            config = pipe.scheduler.config
            pipe.scheduler = fitting_scheduler(pipe, recipe, config, name)
        if pruned := pruned_warning(*adapted_kinds(pipe, adapter)):
            print(f"warning: {name}: {pruned}")
        add_deltas(pipe, adapter, weight)
        print(f"{name}: {len(adapter.modules)} layers, weight {weight:g}")
    if args.dtype:
        pipe.to(dtype=getattr(torch, args.dtype))
    with replacing_alone(args.output) as partial:
        save_for_all(pipe, partial)
        if recipe is not None:
            write_text(partial / UNET_FOLDER / RECIPE_NAME, recipe.to_json())
    use = (
        f"plays with {type(pipe.scheduler).__name__}, guidance_scale {recipe.guidance_scale:g}"
        if recipe
        else "has no recipe"
    )
    print(f"{args.output}: {type(pipe).__name__}, {use}")
    return 0


def into_adapter(args: argparse.Namespace, weights: list[float]) -> int:
    """Writes the weighted sum, with the header of the first that has a recipe."""
    from lcm.adapter.locate import find
    from lcm.formats.algebra import add
    from lcm.formats.write import check_free, identified, place, put

    output = place(args.output)
    files = [find(name) for name in args.adapters]
    check_free(output, files, args.force)
    adapters = [read(args, file) for file in files]
    merged, errors = add(adapters, weights, args.rank)
    recipes = (Recipe.from_header(adapter.header) for adapter in adapters)
    merged.header = identified(merged, next(filter(None, recipes), None))
    print_written(output, put(merged, output, dtype_of(args, adapters[0])))
    print(errors)
    return 0
