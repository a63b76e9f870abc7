"""Stable Diffusion 1.5 and SDXL of the published architecture and size, with random weights: all
that a machine is asked for, without a download.

The U-Nets are those of `models/*.json`; VAE, text encoders and their 49408 words have the published
shapes. No text has most of these words, since the real vocabulary is not to be had here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig

from benchmarks.published import CONFIGS, MODELS, VAE
from examples.shapes.tokenizer import build_tokenizer

WORDS = 49408
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
TINY_WIDTH = 16


def unet_config(name: str, is_tiny: bool) -> dict[str, Any]:
    """The published configuration; with `is_tiny` the same blocks, a few channels wide."""
    config: dict[str, Any] = json.loads((CONFIGS / MODELS[name].config).read_text())
    if not is_tiny:
        return config
    blocks = len(config["down_block_types"])
    layers = config.get("transformer_layers_per_block", 1)
    config |= {
        "block_out_channels": [8] * blocks,
        "norm_num_groups": 4,
        "attention_head_dim": 4,
        "cross_attention_dim": TINY_WIDTH,
        "layers_per_block": 1,
        "transformer_layers_per_block": 1 if isinstance(layers, int) else [1] * blocks,
    }
    if name == "sdxl":
        times = config["addition_time_embed_dim"] = 8
        config["projection_class_embeddings_input_dim"] = 6 * times + TINY_WIDTH
        config["cross_attention_dim"] = 2 * TINY_WIDTH
    return config


def text_encoders(name: str, tokenizer: Any, is_tiny: bool) -> list[Any]:
    """CLIP ViT-L, for SDXL also OpenCLIP bigG."""
    tiny = {
        "hidden_size": TINY_WIDTH,
        "intermediate_size": 2 * TINY_WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "projection_dim": TINY_WIDTH,
    }
    special = {
        f"{word}_token_id": getattr(tokenizer, f"{word}_token_id") for word in ("bos", "eos", "pad")
    }
    return [
        kind(CLIPTextConfig(vocab_size=WORDS, **special, **(config | tiny if is_tiny else config)))
        for kind, config in MODELS[name].text_encoders
    ]


def vae_of(name: str, is_tiny: bool) -> AutoencoderKL:
    """f = 8, four channels."""
    tiny = {"block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4}
    model = MODELS[name]
    config = {**VAE, **model.vae, "sample_size": model.resolution, **(tiny if is_tiny else {})}
    return AutoencoderKL(**config)


@contextmanager
def made_in(dtype: torch.dtype) -> Iterator[None]:
    """Weights are made in this precision, and from the same seed every time."""
    former = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    torch.manual_seed(0)
    try:
        yield
    finally:
        torch.set_default_dtype(former)


def build(name: str, folder: Path, dtype: torch.dtype, is_tiny: bool = False) -> None:
    """Writes a diffusers folder. `name` is sd15 or sdxl."""
    tokenizer = build_tokenizer(WORDS)
    with made_in(dtype):
        unet = UNet2DConditionModel.from_config(unet_config(name, is_tiny))
        vae = vae_of(name, is_tiny)
        encoders = text_encoders(name, tokenizer, is_tiny)
    pipe: Any
    if name == "sdxl":
        pipe = StableDiffusionXLPipeline(
            vae=vae,
            text_encoder=encoders[0],
            text_encoder_2=encoders[1],
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            unet=unet,
            scheduler=EulerDiscreteScheduler(**BETAS, timestep_spacing="leading", steps_offset=1),
            add_watermarker=False,
        )
    else:
        pipe = StableDiffusionPipeline(
            vae=vae,
            text_encoder=encoders[0],
            tokenizer=tokenizer,
            unet=unet,
            scheduler=PNDMScheduler(
                **BETAS, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1
            ),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipe.save_pretrained(folder, safe_serialization=True)
