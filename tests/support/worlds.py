"""Complete random pipelines in diffusers format, built in code in a second: SD with any prediction
type, and SDXL.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from examples.shapes.tokenizer import build_tokenizer
from lcm.models.conditioning import Conditioning
from tests.support.schedules import SD_BETAS


def text_config(width: int) -> CLIPTextConfig:
    tokenizer = build_tokenizer()
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def build_vae() -> AutoencoderKL:
    """f = 2, so that 16 pixels make 8 x 8 latents."""
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
        scaling_factor=0.5,
    )


def build_unet(**changes: Any) -> UNet2DConditionModel:
    config: dict[str, Any] = {
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 16,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    }
    torch.manual_seed(0)
    return UNet2DConditionModel(**{**config, **changes}).eval()


def build_sdxl_unet(**changes: Any) -> UNet2DConditionModel:
    return build_unet(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 16,
        **changes,
    )


def build_sd(
    prediction_type: str = "epsilon", zero_snr: bool = False, unet: Any = None
) -> StableDiffusionPipeline:
    torch.manual_seed(0)
    pipe = StableDiffusionPipeline(
        vae=build_vae(),
        text_encoder=CLIPTextModel(text_config(16)),
        tokenizer=build_tokenizer(),
        unet=unet or build_unet(),
        scheduler=DDIMScheduler(
            **SD_BETAS,
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
            prediction_type=prediction_type,
            rescale_betas_zero_snr=zero_snr,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def build_sdxl(force_zeros: bool = True) -> StableDiffusionXLPipeline:
    torch.manual_seed(0)
    pipe = StableDiffusionXLPipeline(
        vae=build_vae(),
        text_encoder=CLIPTextModel(text_config(16)),
        text_encoder_2=CLIPTextModelWithProjection(text_config(16)),
        tokenizer=build_tokenizer(),
        tokenizer_2=build_tokenizer(),
        unet=build_sdxl_unet(),
        scheduler=EulerDiscreteScheduler(**SD_BETAS, timestep_spacing="leading", steps_offset=1),
        force_zeros_for_empty_prompt=force_zeros,
        add_watermarker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def write_images(folder: Path, count: int = 6, size: tuple[int, int] = (20, 16)) -> Path:
    """Noise pictures (width, height) with captions in metadata.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows = []
    for i in range(count):
        Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(
            folder / f"{i}.png"
        )
        rows.append(json.dumps({"file_name": f"{i}.png", "text": f"picture {i}"}))
    (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n")
    return folder


def randomize_lora(unet: torch.nn.Module, scale: float = 0.3) -> None:
    """Gives every adapter tensor, the zero B included, random values, so that the adapter does
    something.
    """
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if ".lora_" in name:
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))


def inputs(unet: Any) -> tuple[torch.Tensor, torch.Tensor, Conditioning]:
    """What a U-Net is asked with, for two samples: noise [2, 4, 8, 8], timesteps and prompts."""
    torch.manual_seed(3)
    t = torch.tensor([999, 19])
    embeds = torch.randn(2, 77, unet.config.cross_attention_dim)
    if unet.config.addition_embed_type is None:
        return torch.randn(2, 4, 8, 8), t, Conditioning(embeds)
    return (
        torch.randn(2, 4, 8, 8),
        t,
        Conditioning(embeds, torch.randn(2, 16), torch.full((2, 6), 16.0)),
    )


def vary(model: torch.nn.Module, seed: int) -> None:
    """Makes it a fine-tune of itself."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
