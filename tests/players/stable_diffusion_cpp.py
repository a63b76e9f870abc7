"""stable-diffusion.cpp, as its conversion of names behaves: underscored names of diffusers' blocks
get their dots back, then the original model's numbers; a LoRA's matrices follow the layer's name.
"""

from __future__ import annotations

from torch import Tensor

from tests.support.ldm import Original, kohya_name, ldm_layers


def places(state: dict[str, Tensor], model: Original) -> dict[str, float]:
    """The layers that it patches, by the names of the original model, and their strengths."""
    found = {}
    for layer, _ in ldm_layers(model):
        for name in (kohya_name(layer), f"lora_unet_{layer.replace('.', '_')}"):
            down, alpha = state.get(f"{name}.lora_down.weight"), state.get(f"{name}.alpha")
            if down is not None:
                found[layer] = 1.0 if alpha is None else float(alpha) / len(down)
    return found
