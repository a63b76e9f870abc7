"""What stands before the name of a layer in adapter files: one table, from which files are read,
written, and told what other programs make of them.
"""

from __future__ import annotations

from typing import NamedTuple


class Prefix(NamedTuple):
    """The component that a prefix names, "" where it names none, and whether ComfyUI has it for
    layers that are called as in diffusers.
    """

    component: str
    comfyui: bool = False


UNDERSCORED: dict[str, Prefix] = {
    "lora_unet_": Prefix("unet", comfyui=True),
    "lycoris_": Prefix("unet", comfyui=True),  # SimpleTuner, and LyCORIS outside of kohya's scripts
    "lora_prior_unet_": Prefix("unet"),  # as the trainers of Stable Cascade have it
    "lora_prior_te_": Prefix("text_encoder_2"),  # CLIP bigG, the only encoder there
    "lora_te1_": Prefix("text_encoder"),
    "lora_te2_": Prefix("text_encoder_2"),
    "lora_te_": Prefix("text_encoder"),
    "lora_text_encoder_2_": Prefix("text_encoder_2"),
    "lora_text_encoder_": Prefix("text_encoder"),
}
"""Prefixes of names whose dots became underscores, as kohya's trainers write them."""

DOTTED: dict[str, Prefix] = {
    "unet.": Prefix("unet", comfyui=True),
    "lora_unet.": Prefix("unet"),
    "diffusion_model.": Prefix("unet"),  # ComfyUI, with the blocks of the original model
    "model.diffusion_model.": Prefix("unet"),  # a checkpoint's
    "text_encoder.": Prefix("text_encoder"),
    "text_encoder_2.": Prefix("text_encoder_2"),
    "te.": Prefix("text_encoder"),
    "te1.": Prefix("text_encoder"),
    "te2.": Prefix("text_encoder_2"),
    "text_encoders.": Prefix(""),
    "clip_l.transformer.": Prefix("text_encoder"),
    "clip_h.transformer.": Prefix("text_encoder"),  # Stable Diffusion 2
    "clip_g.transformer.": Prefix("text_encoder_2"),
    "clip_l.": Prefix("text_encoder"),
    "clip_h.": Prefix("text_encoder"),
    "clip_g.": Prefix("text_encoder_2"),
    "cond_stage_model.transformer.": Prefix("text_encoder"),  # checkpoints of SD 1.x
    "conditioner.embedders.0.transformer.": Prefix("text_encoder"),  # and of SDXL
}

WRAPPERS = (
    "base_model.model.",
    "base_model_model_",
    "module.",
    "_orig_mod.",
    "_forward_module.",
    "_fsdp_wrapped_module.",
    "_checkpoint_wrapped_module.",
)
"""What PEFT, torch.compile and the wrappers of parallel training put before names, or into them."""

PREFIXES: dict[str, Prefix] = {
    **UNDERSCORED,
    **DOTTED,
    **dict.fromkeys(WRAPPERS, Prefix("")),
}


def strip(stem: str) -> tuple[list[str], str]:
    """The prefixes of a name, outermost first, and what is left."""
    found: list[str] = []
    while prefix := next((p for p in PREFIXES if stem.startswith(p)), None):
        found.append(prefix)
        stem = stem[len(prefix) :]
    return found, stem


def unwrapped(name: str) -> str:
    """A dotted name without what wrapped modules inside the model put into it."""
    for wrapper in WRAPPERS[2:]:
        name = name.replace(f".{wrapper}", ".")
    return name
