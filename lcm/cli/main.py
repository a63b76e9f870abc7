"""The `lcm` command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from lcm.system.console import error_exit, quiet_libraries


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0, 1 where something is wrong with a file, 2 after a mistake of the user."""
    quiet_libraries()
    from lcm.cli import VERBS

    parser = argparse.ArgumentParser(
        prog="lcm", description="Tools around the distillation of few-step adapters."
    )
    parsers = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, verb in VERBS.items():
        verb.configure(
            parsers.add_parser(
                name, help=verb.HELP, description=f"{verb.HELP[0].upper()}{verb.HELP[1:]}."
            )
        )
    args, rest = parser.parse_known_args(argv)
    if rest and not getattr(args, "takes_rest", False):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        status = VERBS[args.verb].run(args, rest)
        sys.stdout.flush()  # where a reader has left, it is found out here and not at the end
        return status
    except (ValueError, OSError) as error:
        if os.environ.get("LCM_TRACEBACK"):
            raise
        return error_exit(error)


if __name__ == "__main__":
    sys.exit(main())
