"""The parts of `real_size` that no command of the toolkit is: building a model, and drawing with an
adapter.

    python -m benchmarks.real_size_parts build sd15 FOLDER float32
    python -m benchmarks.real_size_parts draw FOLDER ADAPTER float32
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import lcm
from benchmarks.true_models import build
from lcm.models.base_model import load_base

RESOLUTION, STEPS = 64, 4


def draw(teacher: Path, adapter: Path, dtype: torch.dtype) -> None:
    """Four steps with the adapter as a user draws, and without it, from the same noise."""
    pipe = load_base(teacher, dtype=dtype)
    pipe.set_progress_bar_config(disable=True)

    def latents() -> torch.Tensor:
        drawn: torch.Tensor = pipe(
            "a red star on a navy background",
            num_inference_steps=STEPS,
            guidance_scale=1.0,
            height=RESOLUTION,
            width=RESOLUTION,
            generator=torch.Generator().manual_seed(0),
            output_type="latent",
        ).images
        return drawn.float()

    lcm.attach(pipe, adapter)
    adapted = latents()
    pipe.unload_lora_weights()
    effect = (adapted - latents()).abs().max() / adapted.abs().max()
    print(f"{STEPS} steps at {RESOLUTION} pixels: {type(pipe.scheduler).__name__}")
    print(f"the adapter changes the latents by {effect:.2%} of their range")
    if not (adapted.isfinite().all() and effect > 0):
        raise SystemExit("error: the adapter does nothing, or the latents are not finite")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(dest="part", required=True)
    building, drawing = parts.add_parser("build"), parts.add_parser("draw")
    building.add_argument("name")
    building.add_argument("folder", type=Path)
    building.add_argument("dtype")
    building.add_argument("--tiny", action="store_true")
    drawing.add_argument("folder", type=Path)
    drawing.add_argument("adapter", type=Path)
    drawing.add_argument("dtype")
    args = parser.parse_args()
    dtype = getattr(torch, args.dtype)
    if args.part == "build":
        build(args.name, args.folder, dtype, args.tiny)
    else:
        draw(args.folder, args.adapter, dtype)


if __name__ == "__main__":
    main()
