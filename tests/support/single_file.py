"""Checkpoints in one file, in the layout of the original Stable Diffusion code, which diffusers
reads and cannot write.

Written from the definition of that layout: `openaimodel.UNetModel`, whose blocks are numbered
through all resolutions, the autoencoder of `ldm`, the text encoders of transformers and open_clip.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from examples.shapes.tokenizer import build_tokenizer
from tests.support.schedules import SD_BETAS
from tests.support.worlds import build_sd, build_unet, build_vae, text_config

State = dict[str, Tensor]

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def split(name: str) -> tuple[str, str]:
    """A module and which of its tensors."""
    module, _, tensor = name.rpartition(".")
    return module, tensor


def unet_name(module: str, per_level: int, has_attention: set[int]) -> str:
    """`per_level` blocks a resolution on the way down, with what makes the picture smaller;
    `has_attention` of the levels up.
    """
    if module in UNET_ENDS:
        return UNET_ENDS[module]
    if found := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", module):
        kind, number, rest = found[1], int(found[2]), found[3]
        return (
            f"middle_block.1.{rest}"
            if kind == "attentions"
            else f"middle_block.{2 * number}.{RESNET[rest]}"
        )
    found = re.fullmatch(
        r"(down|up)_blocks\.(\d)\.(resnets|attentions|downsamplers|upsamplers)\.(\d)\.(.+)", module
    )
    assert found is not None, module
    way, level, kind, number, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
    if kind == "downsamplers":
        return f"input_blocks.{(level + 1) * per_level}.0.op"
    if kind == "upsamplers":
        return (
            f"output_blocks.{(level + 1) * per_level - 1}.{2 if level in has_attention else 1}.conv"
        )
    block = (
        f"input_blocks.{1 + level * per_level + number}"
        if way == "down"
        else f"output_blocks.{level * per_level + number}"
    )
    return f"{block}.0.{RESNET[rest]}" if kind == "resnets" else f"{block}.1.{rest}"


def unet_state(unet: Any) -> State:
    state = unet.state_dict()
    attention = {
        int(name.split(".")[1]) for name in state if re.match(r"up_blocks\.\d\.attentions", name)
    }
    named, layers = {}, unet.config.layers_per_block + 1
    for name, value in state.items():
        module, tensor = split(name)
        named[f"model.diffusion_model.{unet_name(module, layers, attention)}.{tensor}"] = value
    return named


def vae_state(vae: Any) -> State:
    levels, named = len(vae.config.block_out_channels), {}
    for name, tensor_value in vae.state_dict().items():
        value: Tensor = tensor_value
        module, tensor = split(name)
        module = module.replace("conv_norm_out", "norm_out").replace(
            "conv_shortcut", "nin_shortcut"
        )
        if ".attentions." in module:
            part = module.split("attentions.0.")[1]
            module = f"{module.split('.')[0]}.mid.attn_1.{VAE_ATTENTION[part]}"
            if part != "group_norm" and tensor == "weight":
                value = tensor_value[:, :, None, None]  # of a 1 x 1 convolution
        module = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", module)
        module = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", module)
        module = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", module)
        module = re.sub(
            r"up_blocks\.(\d)\.resnets\.(\d)",
            lambda m: f"up.{levels - 1 - int(m[1])}.block.{m[2]}",
            module,
        )
        module = re.sub(
            r"up_blocks\.(\d)\.upsamplers\.0",
            lambda m: f"up.{levels - 1 - int(m[1])}.upsample",
            module,
        )
        named[f"first_stage_model.{module}.{tensor}"] = value
    return named


def clip_state(encoder: Any, prefix: str) -> State:
    """As transformers named them when the layout was made."""
    return {
        f"{prefix}text_model.{name.removeprefix('text_model.')}": value
        for name, value in encoder.state_dict().items()
    }


def open_clip_state(encoder: Any, prefix: str) -> State:
    state = {
        name.removeprefix("text_model."): value for name, value in encoder.state_dict().items()
    }
    named = {
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "ln_final.weight": state["final_layer_norm.weight"],
        "ln_final.bias": state["final_layer_norm.bias"],
    }
    if "text_projection.weight" in state:
        named["text_projection"] = state["text_projection.weight"].T
    for layer in range(encoder.config.num_hidden_layers):
        theirs, ours = f"encoder.layers.{layer}", f"transformer.resblocks.{layer}"
        for tensor in ("weight", "bias"):
            for old, new in OPEN_CLIP_LAYER.items():
                named[f"{ours}.{new}.{tensor}"] = state[f"{theirs}.{old}.{tensor}"]
            qkv = [state[f"{theirs}.self_attn.{part}_proj.{tensor}"] for part in "qkv"]
            named[f"{ours}.attn.in_proj_{tensor}"] = torch.cat(qkv)
            named[f"{ours}.attn.out_proj.{tensor}"] = state[f"{theirs}.self_attn.out_proj.{tensor}"]
    return {prefix + name: value for name, value in named.items()}


def original_state(pipe: Any) -> State:
    """A pipeline's weights in the original layout: SD 1.x, or SDXL where it has two text
    encoders.
    """
    if getattr(pipe, "text_encoder_2", None) is None:
        text = clip_state(pipe.text_encoder, "cond_stage_model.transformer.")
    else:
        text = clip_state(pipe.text_encoder, "conditioner.embedders.0.transformer.")
        text |= open_clip_state(pipe.text_encoder_2, "conditioner.embedders.1.model.")
    return unet_state(pipe.unet) | vae_state(pipe.vae) | text


def write_single_file(
    pipe: Any, path: Path, *, header: dict[str, str] | None = None, **more: Tensor
) -> Path:
    """The file with further tensors; None leaves one out."""
    state = {
        name: value.contiguous().clone() for name, value in {**original_state(pipe), **more}.items()
    }
    save_file(state, path, metadata={"format": "pt", **(header or {})})
    return path


def build_uneven_sdxl() -> StableDiffusionXLPipeline:
    """As `worlds.build_sdxl`, with text encoders of different widths: by these diffusers tells them
    apart in a single file.
    """
    torch.manual_seed(0)
    pipe = StableDiffusionXLPipeline(
        vae=build_vae(),
        text_encoder=CLIPTextModel(text_config(16)),
        text_encoder_2=CLIPTextModelWithProjection(text_config(24)),
        tokenizer=build_tokenizer(),
        tokenizer_2=build_tokenizer(),
        unet=build_unet(
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=40,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 24,
        ),
        scheduler=EulerDiscreteScheduler(**SD_BETAS, timestep_spacing="leading", steps_offset=1),
        add_watermarker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


BUILDERS = {
    "sd": build_sd,
    "v": lambda: build_sd("v_prediction", zero_snr=True),
    "sdxl": build_uneven_sdxl,
}


def without_weights(folder: Path) -> Path:
    for path in folder.rglob("*.safetensors"):
        path.unlink()
    return folder
