"""Converting an adapter from one layout to another."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from lcm.cli.arguments import add_input, add_writing, dtype_of, print_written, read_file, written
from lcm.system.words import file_path, one_of

HELP = "write an adapter in another layout"
EXAMPLE = "lcm convert lora.safetensors converted/ --to peft"
LAYOUTS = ("kohya", "diffusers", "peft")


def configure(parser: argparse.ArgumentParser) -> None:
    add_input(parser)
    parser.add_argument(
        "output", type=file_path, help="the file to write, or a folder for it; peft writes a folder"
    )
    parser.add_argument(
        "--to", required=True, type=one_of(*LAYOUTS), choices=LAYOUTS, help="the layout"
    )
    add_writing(parser)


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    from lcm.adapter.files import AdapterFile
    from lcm.adapter.locate import find
    from lcm.adapter.names import PEFT_CONFIG
    from lcm.formats.write import check_free, place

    file, output = find(args.file), place(args.output, args.to)
    check_free(output, [file], args.force, PEFT_CONFIG if args.to == "peft" else "")
    source = AdapterFile.read(file)
    adapter = read_file(args, source)
    print_written(output, written(adapter, output, dtype_of(args, adapter), source, args.to))
    return 0
