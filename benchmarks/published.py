"""The published models that are counted and measured at their true size: architectures alone, no
weights.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

CONFIGS = Path(__file__).parent / "models"
VAE: dict[str, Any] = {
    "force_upcast": False,
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "latent_channels": 4,
    "layers_per_block": 2,
}
CLIP_L = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}
CLIP_H = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "hidden_act": "gelu",
}
CLIP_G = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
}


@dataclass(frozen=True)
class Model:
    """A published model: the file of its U-Net's configuration, and what else a step must know.

    `changes` are those to the configuration of the U-Net, `vae` those to that of the VAE.
    """

    title: str
    config: str
    resolution: int
    pooled_width: int | None
    text_encoders: tuple[tuple[type[Any], dict[str, Any]], ...]
    changes: dict[str, Any] = field(default_factory=dict)
    vae: dict[str, Any] = field(default_factory=dict)

    @property
    def side(self) -> int:
        """The shape of the latents."""
        return self.resolution // 8

    def unet(self) -> Any:
        """The U-Net with new weights, float32, on torch's default device."""
        config = json.loads((CONFIGS / self.config).read_text())
        return UNet2DConditionModel.from_config({**config, **self.changes})

    def autoencoder(self) -> Any:
        """The VAE, likewise."""
        return AutoencoderKL(**{**VAE, **self.vae})

    def encoders(self) -> list[Any]:
        """The text encoders, likewise."""
        return [kind(CLIPTextConfig(**config)) for kind, config in self.text_encoders]


MODELS = {
    "sd15": Model("Stable Diffusion 1.5", "sd15.json", 512, None, ((CLIPTextModel, CLIP_L),)),
    "sd21": Model("Stable Diffusion 2.1", "sd21.json", 768, None, ((CLIPTextModel, CLIP_H),)),
    "sdxl": Model(
        "SDXL",
        "sdxl.json",
        1024,
        1280,
        (
            (CLIPTextModel, CLIP_L),
            (CLIPTextModelWithProjection, {**CLIP_G, "projection_dim": 1280, "hidden_act": "gelu"}),
        ),
        vae={"scaling_factor": 0.13025, "force_upcast": True},
    ),
}
