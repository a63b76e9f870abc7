"""Draws a part of a picture anew, in exactly the steps asked for; without --image, one that the
renderer draws.

python -m examples.inpaint --prompt "a yellow circle on a navy background" --output filled.png
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from PIL import Image

from examples.shapes.render import Scene, render
from lcm.pipelines import FewStepStableDiffusionInpaintPipeline


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
    parser.add_argument("--image", help="default: a white square on navy")
    parser.add_argument(
        "--box",
        type=int,
        nargs=4,
        default=[0, 0, 32, 64],
        help="left, top, right, bottom: what is drawn anew",
    )
    parser.add_argument("--prompt", default="a yellow circle on a navy background")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="filled.png")
    args = parser.parse_args(argv)

    scene = Scene("square", "white", "navy", x=32, y=32, radius=22, rotation=0.2)
    image = Image.open(args.image).convert("RGB") if args.image else Image.fromarray(render(scene))
    mask = Image.new("L", image.size)
    mask.paste(255, tuple(args.box))
    pipe = FewStepStableDiffusionInpaintPipeline.from_pretrained_with_adapter(
        args.base, args.adapter
    )
    filled = pipe(
        args.prompt,
        image=image,
        mask_image=mask,
        strength=1.0,
        num_inference_steps=args.steps,
        seed=args.seed,
    ).images[0]
    image.paste(filled, mask=mask)  # outside the box the picture is kept to the pixel
    image.save(args.output)


if __name__ == "__main__":
    main()
