"""Draws requests with different numbers of steps in one running batch, each saved as soon as it is
finished.

python -m examples.serve --steps 8 1 4 --output served/
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import lcm
from lcm.models import load_base


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--base", default="examples/shapes/teacher", help="diffusers folder or hub id"
    )
    parser.add_argument(
        "--adapter", default="examples/shapes/lcm_lora", help="output folder, file or hub id"
    )
    parser.add_argument("--prompt", default="a red star on a navy background")
    parser.add_argument("--steps", type=int, nargs="+", default=[8, 1, 4], help="one request each")
    parser.add_argument("--output", type=Path, default=Path("served"), help="folder")
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)

    pipe = load_base(args.base)
    recipe = lcm.attach(pipe, args.adapter)
    requests = [
        lcm.Request(args.prompt, seed=i, num_inference_steps=steps)
        for i, steps in enumerate(args.steps)
    ]
    for result in lcm.serve(pipe, requests, max_batch=8, recipe=recipe):
        if result.image is None:
            raise ValueError(f"request {result.index} was not drawn") from result.error
        result.image.save(args.output / f"{result.index}.png")
        print(f"{result.index}: {args.steps[result.index]} steps")


if __name__ == "__main__":
    main()
