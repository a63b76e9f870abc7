"""Style LoRAs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor

from lcm.adapter.names import WEIGHTS_NAME
from tests.support.adapters import adapt
from tests.support.worlds import randomize_lora

PROMPT = "a red star"


def write_style(folder: Path, pipe: Any, scale: float = 0.3) -> dict[str, Tensor]:
    """A random LoRA of attention and text encoders, in diffusers' layout as
    pytorch_lora_weights.safetensors.
    """
    pipe.unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"]))
    parts = {"unet": pipe.unet}
    for name in ("text_encoder", "text_encoder_2"):
        encoder = getattr(pipe, name, None)
        if encoder is not None:
            adapt(
                encoder,
                LoraConfig(r=2, lora_alpha=2, target_modules=["q_proj", "v_proj", "out_proj"]),
            )
            parts[name] = encoder
    for part in parts.values():
        randomize_lora(part, scale)
    pipe.save_lora_weights(
        folder,
        **{f"{name}_lora_layers": get_peft_model_state_dict(part) for name, part in parts.items()},
    )
    return load_file(folder / WEIGHTS_NAME)
