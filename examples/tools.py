"""What the lcm command does with an adapter, one verb after the other: what it is, whether it is
sound, a smaller one, pictures.

python -m examples.tools --output tools/
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from lcm.cli.main import main as lcm


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--base",
        default="examples/shapes/teacher",
        help="diffusers folder, hub id, or one .safetensors file",
    )
    parser.add_argument(
        "--adapter", default="examples/shapes/lcm_lora", help="folder, file or hub id"
    )
    parser.add_argument("--prompt", default="a red star on a navy background")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--output", default="tools", help="folder")
    args = parser.parse_args(argv)

    small = f"{args.output}/small"
    for words in (
        ["inspect", args.adapter],
        ["verify", args.adapter, "--base", args.base],
        ["resize", args.adapter, "--output", small, "--rank", str(args.rank), "--force"],
        [
            "generate",
            "--base",
            args.base,
            "--adapter",
            small,
            "--prompt",
            args.prompt,
            "--output",
            args.output,
            "--overwrite",
        ],
    ):
        print("$ lcm", *words, flush=True)
        if status := lcm(words):
            sys.exit(status)


if __name__ == "__main__":
    main()
