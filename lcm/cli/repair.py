"""Recovering adapter files that programs misread."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lcm.adapter.recipe import Recipe, TeacherFacts
from lcm.cli.arguments import (
    add_base,
    add_input,
    add_writing,
    dtype_of,
    load_pipe,
    print_written,
    read_file,
    written,
)
from lcm.system.words import file_path, text

if TYPE_CHECKING:
    from lcm.formats.factors import Adapter

HELP = (
    "write an adapter of any layout, mixed or half converted too, as one file that loads everywhere"
)
EXAMPLE = "lcm repair lora.safetensors rescued/ --objective lcm --base someone/sd15"


def configure(parser: argparse.ArgumentParser) -> None:
    add_input(parser)
    parser.add_argument("output", type=file_path, help="the file to write, or a folder for it")
    add_writing(parser)
    add_base(parser, "the result is also proved on it")
    parser.add_argument(
        "--drop",
        type=text,
        nargs="+",
        default=(),
        metavar="NAME",
        help="tensors to leave out, by name or pattern ('*.diff_b'): what no LoRA has; "
        "lcm.recipe leaves the recipe out",
    )
    parser.add_argument(
        "--objective",
        type=text,
        help="the method that the adapter was trained with, e.g. lcm; writes its standard recipe",
    )


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    from lcm.adapter.files import AdapterFile
    from lcm.adapter.locate import find
    from lcm.adapter.recipe import RECIPE_KEY
    from lcm.formats.misfit import check_widths
    from lcm.formats.write import check_free, identified, place

    file, output = find(args.file), place(args.output)
    check_free(output, [file], args.force)
    source = AdapterFile.read(file)
    if args.base:
        check_widths(args.base, [source])
    pipe = load_pipe(args) if args.base else None
    if args.objective:  # whatever recipe is there is replaced, though it be unreadable
        source.header.pop(RECIPE_KEY, None)
    layers = pipe.unet.config.layers_per_block if pipe else None
    adapter = read_file(args, source, layers, args.drop)
    adapter.header = identified(adapter, recipe(args, adapter, pipe) if args.objective else None)
    result = written(adapter, output, dtype_of(args, adapter), source)
    print_written(output, result)
    if pipe is not None:
        from lcm.formats.apply import verify

        verdict = verify(pipe, adapter, output)
        taken = ", ".join(f"{count} of the {name}" for name, count in verdict.loaded.items())
        print(
            f"on {args.base}: diffusers takes {taken}, output differs by "
            f"{verdict.error:.1e} of the adapter's effect"
        )
        # the file may be rounded to half precision
        if verdict.misscaled or not verdict.error <= 2e-2:
            print(
                f"error: {output} does not play as {file} is meant; keep the original and report "
                "this"
            )
            return 1
    return 0


def recipe(args: argparse.Namespace, adapter: Adapter, pipe: Any) -> Recipe:
    """The standard recipe of a method for this family. Raises ValueError where the family is not
    known.
    """
    from lcm.methods.build import make_recipe
    from lcm.methods.config import MethodConfig, resolved

    config = resolved(MethodConfig(objective=args.objective))
    facts = facts_of(adapter.text_width, args) if pipe is None else TeacherFacts.of(pipe, args.base)
    if args.prediction_type:
        facts = replace(facts, prediction_type=args.prediction_type)
    if args.zero_terminal_snr:
        facts = replace(facts, zero_terminal_snr=True)
    return make_recipe(config, facts)


def facts_of(width: int | None, args: argparse.Namespace) -> TeacherFacts:
    """What the width of the text says of the base model. Raises ValueError where it does not tell:
    1024 is Stable Diffusion 2 of either prediction type, so that has to be said.
    """
    known = {768: ("sd", 512), 1024: ("sd", 768), 2048: ("sdxl", 1024)}
    if width not in known or (width == 1024 and not args.prediction_type):
        raise ValueError(
            "the adapter does not tell its base model, which the recipe names; pass --base"
        )
    family, resolution = known[width]
    return TeacherFacts(family, width, "epsilon", False, "unknown", resolution)
