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


def family_header(
    family: str, width: int, prediction_type: str, rank: int, alpha: float
) -> dict[str, str]:
    """The keys by which web UIs tell SD 1.x, SD 2.x and SDXL apart, and those of rank and alpha."""
    is_sdxl, is_v2 = family == "sdxl", family == "sd" and width == 1024
    version, architecture = (
        ("sdxl_base_v1-0", "stable-diffusion-xl-v1-base")
        if is_sdxl
        else ("sd_v1", "stable-diffusion-v1")
    )
    if is_v2:
        v = "-v" if prediction_type == "v_prediction" else ""
        version = f"sd_v2{v}"
        architecture = "stable-diffusion-v2-768-v" if v else "stable-diffusion-v2-512"
    return {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{architecture}/lora",
        "ss_base_model_version": version,
        "ss_v2": str(is_v2),
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(alpha),
    }
