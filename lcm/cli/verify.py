"""Attaching an adapter by stock diffusers, and comparing with what it means."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from lcm.cli.arguments import add_base, add_input, load_pipe, read

HELP = (
    "attach an adapter to a base by stock diffusers, and compare with W + alpha / rank B A done "
    "by hand"
)
EXAMPLE = "lcm verify out/ --base someone/sd15"
TOLERANCE = 1e-3
"""Largest difference of the two outputs relative to the adapter's effect: float32 sums in another
order stay far below it.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    add_input(parser)
    add_base(parser, "what the adapter is attached to", required=True)


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    from lcm.adapter.files import AdapterFile
    from lcm.adapter.locate import find
    from lcm.formats.misfit import check_widths

    file = find(args.file)
    check_widths(args.base, [AdapterFile.read(file)])
    from lcm.formats.advice import way_on
    from lcm.formats.apply import adapted_kinds, verify
    from lcm.formats.coverage import pruned_warning
    from lcm.formats.programs import what_takes
    from lcm.inference.judge import fits

    pipe = load_pipe(args)
    adapter = read(args, file, pipe.unet.config.layers_per_block)
    print(f"{file} on {args.base}")
    # the first is diffusers, which below is asked by loading the file and not by its names
    for name, taken in list(what_takes(adapter, file).items())[1:]:
        skipped = len(adapter.component("unet")) - taken.count
        detail = (
            f"skips {skipped} of the U-Net's layers, {taken.missing} first"
            if skipped
            else "takes every layer of the U-Net"
        )
        print(
            f"{name} "
            f"{detail}{f'; {taken.misscaled} with a wrong strength' if taken.misscaled else ''}"
        )
    pruned = pruned_warning(*adapted_kinds(pipe, adapter))
    verdict = verify(pipe, adapter, file)
    faults = []
    for component, count in verdict.loaded.items():
        total = len(adapter.component(component))
        print(f"diffusers takes {count} of {total} layers of the {component}")
        faults += (
            [f"diffusers leaves out {total - count} layers of the {component}"]
            if count < total
            else []
        )
    if verdict.misscaled:
        faults.append(
            f"diffusers plays {len(verdict.misscaled)} layers with a wrong strength, "
            f"{verdict.misscaled[0]} first"
        )
    print(f"the adapter changes the U-Net's output by {verdict.effect:.1%} of its range")
    print(
        f"diffusers' output differs from that of the changed weights by {verdict.error:.1e} of "
        "this change"
    )
    if verdict.effect == 0 and adapter.component("unet"):
        faults.append("the adapter does nothing: its matrices are zero")
    elif not verdict.error <= TOLERANCE:
        faults.append("diffusers' output is not that of the adapter")
    if pruned:
        print(f"warning: {pruned}")
    if faults:
        print(f"not sound: {'; '.join(faults)}; {way_on(AdapterFile.read(file), fits(pipe))}")
    else:
        print("sound")
    return 1 if faults else 0
