"""InvokeAI, as it behaves: it plays the U-Net of diffusers, walks from an underscored name down to
the module, and turns the original's block names of SDXL into diffusers', all or none.
"""

from __future__ import annotations

from torch import Tensor

from tests.support.ldm import Original, diffusers_name, ldm_layers


def places(state: dict[str, Tensor], model: Original) -> dict[str, float]:
    """The layers that it patches, by the names of the original model, and their strengths. Raises
    ValueError for SDXL files that it refuses.
    """
    stems = {key.split(".", 1)[0] for key in state}
    original = {f"lora_unet_{name.replace('.', '_')}": name for name, _ in ldm_layers(model)}
    ours = {
        f"lora_unet_{diffusers_name(name).replace('.', '_')}": name for name in original.values()
    }
    if model.context == 2048:
        if any(not stem.startswith(("lora_unet_", "lora_te1_", "lora_te2_")) for stem in stems):
            raise ValueError("unrecognized key")
        unet = {stem for stem in stems if stem.startswith("lora_unet_")}
        if unet & original.keys() and unet - original.keys():
            raise ValueError("partially converted")
        ours |= original
    found = {}
    for stem in stems & ours.keys():
        down, alpha = state.get(f"{stem}.lora_down.weight"), state.get(f"{stem}.alpha")
        if down is not None and f"{stem}.lora_up.weight" in state:
            found[ours[stem]] = 1.0 if alpha is None else float(alpha) / len(down)
    return found
