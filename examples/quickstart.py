"""Attaches a few-step adapter to its base model and draws.

python -m examples.quickstart --prompt "a red star on a navy background" --output star.png
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch

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
    parser.add_argument("--steps", type=int, help="default: the recipe's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="image.png")
    args = parser.parse_args(argv)

    pipe = load_base(args.base)
    recipe = lcm.attach(pipe, args.adapter)
    image = pipe(
        args.prompt,
        num_inference_steps=args.steps or recipe.usual_steps,
        guidance_scale=recipe.guidance_scale,
        generator=torch.Generator().manual_seed(args.seed),
    ).images[0]
    image.save(args.output)


if __name__ == "__main__":
    main()
