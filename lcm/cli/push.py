"""Uploads what a finished run exports."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from lcm.system.words import file_path, text

HELP = "upload the adapter and card of a finished run to the hub"
EXAMPLE = "lcm push out/ --hub_model_id someone/few-steps"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("output_dir", type=file_path, help="the --output_dir of the run")
    parser.add_argument(
        "--hub_model_id", type=text, help="someone/name; default: the folder's name among your own"
    )
    parser.add_argument(
        "--hub_private",
        action="store_true",
        help="make the repository private where there is none yet",
    )


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    from lcm.publish.hub import push

    print(push(args.output_dir, args.hub_model_id, args.hub_private))
    return 0
