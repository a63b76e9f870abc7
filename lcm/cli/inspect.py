"""What an adapter file is, and what will load it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from lcm.cli.arguments import add_input
from lcm.system.text import plain

HELP = "say what an adapter file is and what will load it"
LONGEST = 500
"""Characters of a line: names and texts of a file may be of any length."""
EXAMPLE = "lcm inspect lora.safetensors"


def configure(parser: argparse.ArgumentParser) -> None:
    add_input(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    from lcm.adapter.files import AdapterFile
    from lcm.adapter.locate import find
    from lcm.adapter.names import is_full
    from lcm.publish.inspection import inspect, lines

    if is_full(args.file):
        raise ValueError(
            f"{args.file} holds a whole U-Net, not an adapter; lcm.attach puts it in the place of "
            "the pipeline's own"
        )
    facts = inspect(AdapterFile.read(find(args.file)), args.alpha)
    said = lines(facts)
    if args.json:
        said = json.dumps(facts, indent=2).splitlines()
    print(*said if args.json else (plain(line, LONGEST) for line in said), sep="\n")
    return 1 if facts["problems"] else 0
