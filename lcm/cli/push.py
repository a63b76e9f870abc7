"""Uploads what a finished run exports."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from contextlib import nullcontext

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
    from lcm.system.lock import alone_in

    # a run replaces its files one by one; a folder that nobody here may write to stands still
    is_ours = os.access(args.output_dir, os.W_OK)
    with alone_in(args.output_dir) if is_ours else nullcontext():
        print(push(args.output_dir, args.hub_model_id, args.hub_private))
    return 0
