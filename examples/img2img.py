"""Changes a picture in exactly the steps asked for; without --image, one that the renderer draws.

python -m examples.img2img --prompt "a red square on a navy background" --strength 0.8 --output
changed.png
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from PIL import Image

from examples.shapes.render import Scene, render
from lcm.pipelines import FewStepStableDiffusionImg2ImgPipeline


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
    parser.add_argument("--prompt", default="a red square on a navy background")
    parser.add_argument(
        "--strength", type=float, default=0.8, help="1 leaves nothing of the picture"
    )
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="changed.png")
    args = parser.parse_args(argv)

    scene = Scene("square", "white", "navy", x=24, y=36, radius=18, rotation=0.2)
    image = Image.open(args.image).convert("RGB") if args.image else Image.fromarray(render(scene))
    pipe = FewStepStableDiffusionImg2ImgPipeline.from_pretrained_with_adapter(
        args.base, args.adapter
    )
    changed = pipe(
        args.prompt,
        image=image,
        strength=args.strength,
        num_inference_steps=args.steps,
        seed=args.seed,
    ).images[0]
    changed.save(args.output)


if __name__ == "__main__":
    main()
