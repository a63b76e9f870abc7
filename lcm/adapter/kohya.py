"""The layout of the official LCM-LoRAs, kohya's: names with underscores, diffusers' blocks, alpha
as a tensor. diffusers, ComfyUI and A1111 read it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lcm.adapter.prefixes import UNDERSCORED

WRITTEN = ("lora_unet_", "lora_te1_", "lora_te2_")
"""Which of the prefixes are written."""
COMPONENT_PREFIXES = {UNDERSCORED[prefix].component: prefix for prefix in WRITTEN}
"""How the names of a component's layers begin."""


def underscored(name: str) -> str:
    """A layer's name without dots: "mid_block.attentions.0" -> "mid_block_attentions_0"."""
    return name.replace(".", "_")


def stem(component: str, layer: str, is_alone: bool = False) -> str:
    """The file's name of a layer. With one text encoder, as in SD 1.x, `is_alone`, it is "te"
    without a number.
    """
    prefix = (
        "lora_te_" if component == "text_encoder" and is_alone else COMPONENT_PREFIXES[component]
    )
    return prefix + underscored(layer)


def layer_tensors(stem: str, down: Tensor, up: Tensor, alpha: float) -> dict[str, Tensor]:
    """The three tensors of one layer: down [rank, in, ...], up [out, rank, ...], alpha []."""
    return {
        f"{stem}.lora_down.weight": down.contiguous(),
        f"{stem}.lora_up.weight": up.contiguous(),
        f"{stem}.alpha": torch.tensor(float(alpha)),
    }
