"""The layout of the official LCM-LoRAs: names with underscores, diffusers' blocks, alpha as a
tensor. It loads everywhere.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from lcm.adapter.files import AdapterError
from lcm.formats.factors import Adapter, uniform
from lcm.formats.names import underscored
from lcm.formats.read import METADATA_KEY

PREFIX = {"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}


def stem(module: str, is_alone: bool) -> str:
    """With one text encoder, as in SD 1.x, it is "te" without a number."""
    component, _, layer = module.partition(".")
    prefix = "lora_te_" if component == "text_encoder" and is_alone else PREFIX[component]
    return prefix + underscored(layer)


def check_text_encoders(adapter: Adapter) -> None:
    """Raises AdapterError for attention without its last layer, by which diffusers recognises
    kohya's text encoders.
    """
    for component in ("text_encoder", "text_encoder_2"):
        attention = [name for name in adapter.component(component) if ".self_attn." in name]
        if attention and not any(name.endswith(".out_proj") for name in attention):
            raise AdapterError(
                f"{component}.{attention[0]} would be left out by diffusers, which knows the text "
                "encoders of kohya files by their out_proj layers, and here are none; lcm convert "
                "--to diffusers writes what it reads"
            )


def write(adapter: Adapter, path: Path) -> None:
    """One file, made `uniform`. diffusers refuses its own metadata in such a file: it is left
    out.
    """
    check_text_encoders(adapter)
    adapter = uniform(adapter)
    is_alone = adapter.text_width != 2048 and not adapter.component("text_encoder_2")
    state = {}
    for module, factors in adapter.modules.items():
        name = stem(module, is_alone)
        state[f"{name}.lora_down.weight"] = factors.down.contiguous()
        state[f"{name}.lora_up.weight"] = factors.up.contiguous()
        state[f"{name}.alpha"] = torch.tensor(factors.alpha)
    save_file(
        state,
        path,
        metadata={key: value for key, value in adapter.header.items() if key != METADATA_KEY},
    )
