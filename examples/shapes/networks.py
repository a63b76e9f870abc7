"""The networks of a teacher and its noise schedule: Stable Diffusion's, of a size for a laptop."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer


def build_scheduler(prediction_type: str) -> DDIMScheduler:
    """SD's scaled-linear betas; the v_prediction teacher has zero terminal SNR."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
        prediction_type=prediction_type,
        rescale_betas_zero_snr=prediction_type == "v_prediction",
    )


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


@torch.no_grad()
def load_text_encoder(teacher: Path, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """The text encoder of a teacher, whose vocabulary may be of another world: a word that it does
    not have starts as in a new text encoder.
    """
    known = CLIPTextModel.from_pretrained(
        teacher / "text_encoder", dtype=torch.float32, use_safetensors=True
    )
    words = CLIPTokenizer.from_pretrained(teacher / "tokenizer").get_vocab()
    encoder = build_text_encoder(tokenizer)
    table, known_table = (model.get_input_embeddings().weight for model in (encoder, known))
    for word, row in tokenizer.get_vocab().items():
        if word in words:
            table[row] = known_table[words[word]]
    known.set_input_embeddings(encoder.get_input_embeddings())
    encoder.load_state_dict(known.state_dict())
    return encoder


def build_unet(widths: Sequence[int] = (64, 128)) -> UNet2DConditionModel:
    """The channels of its two resolutions must be multiples of 16."""
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=tuple(widths),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=64,
        attention_head_dim=4,
        norm_num_groups=16,
    )
