"""Making the rank of an adapter smaller."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from lcm.cli.arguments import add_input, add_writing, dtype_of, print_written, read

HELP = (
    "write an adapter at a smaller rank, the best there is by singular values, and print the error"
)


def configure(parser: argparse.ArgumentParser) -> None:
    add_input(parser)
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument("--rank", type=int, help="the rank of every layer")
    size.add_argument(
        "--error",
        type=float,
        help="the smallest rank that keeps every layer's relative error below this, as 0.05",
    )
    parser.add_argument(
        "--output", type=Path, required=True, help="the file to write, or a folder for it"
    )
    add_writing(parser)


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    from lcm.adapter.locate import find
    from lcm.formats.algebra import shrink
    from lcm.formats.write import check_free, identified, place, save

    file, output = find(args.file), place(args.output)
    check_free(output, [file], args.force)
    source = read(args, file)
    adapter, errors = shrink(source, args.rank, args.error)
    adapter.header = identified(adapter, None)
    print_written(output, save(adapter, output, dtype_of(args, source)))
    print(errors)
    return 0
