"""The community models as stock pipelines.

    python -m examples.shapes.community.load --model outlined \\
        --output_dir out/community/models/outlined

A fine-tune is the bundled teacher with what its file says added to the U-Net (`delta.py`); the
style LoRA is a file that stock diffusers loads. All draw with the decoder that knows their styles.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from examples.shapes.community.delta import unpack
from examples.shapes.demo import TEACHER
from examples.shapes.evaluate import load_pipe
from lcm.libraries.transformers import save_for_all

MODELS = Path(__file__).parent / "models"
DECODER = MODELS / "decoder.safetensors"
FINE_TUNES = ("outlined", "pastel", "shadow")
STYLE_LORAS = ("neon",)


@torch.no_grad()
def apply(unet: Any, path: Path) -> None:
    """Adds the differences in `path` to the weights. Raises KeyError for a file of another
    U-Net.
    """
    packed = load_file(path)
    for name, weight in unet.named_parameters():
        weight.add_(unpack(packed, name, weight))


def community_model(name: str, style_weight: float = 1.0) -> Any:
    """A stock `StableDiffusionPipeline` in float32: "plain" (the bundled teacher), one of
    `FINE_TUNES`, or the bundled teacher with one of `STYLE_LORAS`, which is then the adapter
    "style" with weight `style_weight`.
    """
    pipe = load_pipe(TEACHER)
    pipe.vae.load_state_dict(load_file(DECODER), strict=False)
    if name in FINE_TUNES:
        apply(pipe.unet, MODELS / f"{name}.safetensors")
    if name in STYLE_LORAS:
        pipe.load_lora_weights(
            MODELS,
            weight_name=f"{name}.safetensors",
            adapter_name="style",
            use_safetensors=True,
        )
        pipe.set_adapters(["style"], [style_weight])
    return pipe


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=FINE_TUNES, required=True)
    parser.add_argument(
        "--output_dir", type=Path, required=True, help="a folder in diffusers format"
    )
    args = parser.parse_args()
    save_for_all(community_model(args.model), args.output_dir)


if __name__ == "__main__":
    main()
