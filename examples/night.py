"""Makes a style LoRA in seconds, without training: whatever background a caption names, it is navy.

python -m examples.night --output night.safetensors

The text of the caption is all that the cross-attention reads. The linear map that sends the text embeddings of every caption of
the tiny world nearest to those of the same caption with a navy background, cut at its largest singular values, is the LoRA.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from safetensors.torch import save_file

from examples.shapes.render import ATTRIBUTES, caption

RANK = 8


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="examples/shapes/teacher", help="diffusers folder")
    parser.add_argument("--output", type=Path, default=Path("night.safetensors"))
    args = parser.parse_args(argv)

    pipe = DiffusionPipeline.from_pretrained(args.base, dtype=torch.float32)
    named = [caption(*attributes) for attributes in ATTRIBUTES]
    navy = [caption(shape, color, "navy") for shape, color, _ in ATTRIBUTES]
    with torch.no_grad():
        before, after = (pipe.encode_prompt(texts, "cpu", 1, False)[0].flatten(0, 1) for texts in (named, navy))
        u, s, v = torch.linalg.svd(torch.linalg.lstsq(before, after - before).solution)  # before @ (u s v) is near after - before
    tensors = {}
    for name, layer in pipe.unet.named_modules():
        if name.endswith(("attn2.to_k", "attn2.to_v")):
            tensors[f"unet.{name}.lora_A.weight"] = (u[:, :RANK] * s[:RANK]).T.contiguous()
            tensors[f"unet.{name}.lora_B.weight"] = (layer.weight @ v[:RANK].T).detach().contiguous()
    save_file(tensors, args.output)


if __name__ == "__main__":
    main()
