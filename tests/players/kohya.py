"""kohya's sd-scripts, as `networks.lora` behaves: names are made of its own U-Net's module paths,
which are diffusers' for SD 1.x and 2.x and the original's for SDXL, where blocks are renamed first.
"""

from __future__ import annotations

from torch import Tensor

from tests.support.ldm import Original, diffusers_name, kohya_name, ldm_layers


def places(state: dict[str, Tensor], model: Original) -> dict[str, float]:
    """The layers that get a module, by the names of the original model, and their strengths: alpha
    / rank, or 1 without an alpha.
    """
    is_xl = model.context == 2048
    found = {}
    for layer, _ in ldm_layers(model):
        names = [f"lora_unet_{layer if is_xl else diffusers_name(layer)}".replace(".", "_")]
        names += [kohya_name(layer)] if is_xl else []
        for name in names:
            if f"{name}.lora_down.weight" in state:
                rank = len(state[f"{name}.lora_down.weight"])
                found[layer] = float(state.get(f"{name}.alpha", rank)) / rank
    return found
