"""Making the rank of an adapter smaller."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from lcm.cli.arguments import (
    LARGEST_RANK,
    add_input,
    add_writing,
    dtype_of,
    print_written,
    read,
)
from lcm.system.flags import within
from lcm.system.words import file_path, number, whole

HELP = (
    "write an adapter at a smaller rank, the best there is by singular values, and print the error"
)
EXAMPLE = "lcm resize lora.safetensors --rank 16 --output small.safetensors"


def configure(parser: argparse.ArgumentParser) -> None:
    add_input(parser)
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument(
        "--rank",
        type=within(whole, at_least=1, at_most=LARGEST_RANK),
        help="the rank of every layer",
    )
    size.add_argument(
        "--error",
        type=within(number, at_least=0, below=1),
        help="the smallest rank that keeps every layer's relative error below this, as 0.05",
    )
    parser.add_argument(
        "--output", type=file_path, required=True, help="the file to write, or a folder for it"
    )
    add_writing(parser)


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    from lcm.adapter.locate import find
    from lcm.formats.algebra import shrink
    from lcm.formats.write import check_free, identified, place, put

    file, output = find(args.file), place(args.output)
    check_free(output, [file], args.force)
    source = read(args, file)
    adapter, errors = shrink(source, args.rank, args.error)
    adapter.header = identified(adapter, None)
    print_written(output, put(adapter, output, dtype_of(args, source)))
    print(errors)
    return 0
