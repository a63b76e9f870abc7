"""Plays a few-step adapter and a style LoRA together, and takes both off again.

python -m examples.mix --prompt "a cyan ring on a black background" --output mixed/
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

import lcm
from examples.shapes.community.load import MODELS, community_model
from lcm.models import load_base


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--base",
        help="diffusers folder or hub id; default: the bundled teacher with a decoder for styles",
    )
    parser.add_argument(
        "--adapter", default="examples/shapes/lcm_lora", help="output folder, file or hub id"
    )
    parser.add_argument("--style", default=str(MODELS / "neon.safetensors"), help="file or hub id")
    parser.add_argument(
        "--weights", type=float, nargs="+", default=[0.0, 0.8], help="of the style, a picture each"
    )
    parser.add_argument("--prompt", default="a cyan ring on a black background")
    parser.add_argument("--output", type=Path, default=Path("mixed"), help="folder")
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)

    pipe = load_base(args.base) if args.base else community_model("plain")
    for weight in args.weights:
        recipe = lcm.attach(pipe, {args.adapter: 1.0, args.style: weight})
        options = {
            "num_inference_steps": recipe.usual_steps,
            "guidance_scale": recipe.guidance_scale,
        }
        image = pipe(args.prompt, generator=torch.Generator().manual_seed(0), **options).images[0]
        image.save(args.output / f"style-{weight:g}.png")
        lcm.detach(pipe)  # the pipeline is as it was


if __name__ == "__main__":
    main()
