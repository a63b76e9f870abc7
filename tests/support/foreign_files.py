"""Files that people take for LoRAs of Stable Diffusion, in the names and shapes of public trainers;
for the U-Net of `tests.support.worlds.build_sd`.
"""

from __future__ import annotations

import torch
from torch import Tensor

State = dict[str, Tensor]

LAYER = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
STEM = f"lora_unet_{LAYER.replace('.', '_')}"


def lora(stem: str = STEM, rank: int = 2, alpha: float | None = 2.0) -> State:
    """A whole layer of a LoRA, in kohya's parts."""
    state = {
        f"{stem}.lora_down.weight": torch.ones(rank, 16),
        f"{stem}.lora_up.weight": torch.ones(16, rank),
    }
    return state if alpha is None else {**state, f"{stem}.alpha": torch.tensor(alpha)}


def peft(*names: str) -> State:
    return {f"{name}.lora_{part}.weight": torch.ones(2, 2) for name in names for part in "AB"}


def parts(*ends: str, stem: str = STEM) -> State:
    return {f"{stem}.{end}": torch.ones(2, 2) for end in ends}


def named(*names: str, shape: tuple[int, ...] = (2, 2)) -> State:
    return {name: torch.ones(shape) for name in names}


OTHER = "lora_unet_up_blocks_1_attentions_0_transformer_blocks_0_attn1_to_k"
QUERY = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
PROJ = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


def narrow(stem: str) -> State:
    """A layer of the U-Net where it has 8 channels."""
    return {
        f"{stem}.lora_down.weight": torch.ones(2, 8),
        f"{stem}.lora_up.weight": torch.ones(8, 2),
    }


MENDED: dict[str, State] = {
    "bundled embedding": {**lora(), "bundle_emb.sks.clip_l": torch.ones(1, 16)},
    "embedding of A1111": {**lora(), "bundle_emb.x y.string_to_param.*": torch.ones(1, 16)},
    "bias differences": {**lora(), f"{STEM}.diff_b": torch.zeros(16)},
    "norms": {**lora(), "lora_unet_conv_norm_out.w_norm": torch.ones(8)},
    "a difference": {**lora(), "lora_unet_conv_in.diff": torch.ones(8, 4, 3, 3)},
    "a bias of PEFT": {
        **lora(),
        f"unet.{LAYER.replace('to_q', 'to_k')}.lora_A.weight": torch.ones(2, 16),
        f"unet.{LAYER.replace('to_q', 'to_k')}.lora_B.weight": torch.ones(16, 2),
        f"unet.{LAYER.replace('to_q', 'to_k')}.alpha": torch.tensor(2.0),
        f"unet.{LAYER.replace('to_q', 'to_k')}.lora_B.bias": torch.ones(16),
    },
    "set weights": {**lora(), f"{STEM}.set_weight": torch.ones(3)},
    "a stranger": {**lora(), "optimizer's state [0]": torch.ones(3)},
    "an unknown layer": {**lora(), **lora("lora_unet_up_blocks_0_norm")},
    "one alpha missing": {
        **lora(),
        **narrow(OTHER),
        **narrow(PROJ),
        f"{PROJ}.alpha": torch.ones(()),
    },
    "alpha 0": {**lora(), **narrow(OTHER), f"{OTHER}.alpha": torch.zeros(())},
    "all alphas 0": {
        **lora(alpha=0.0),
        **{k: v for s in (OTHER, PROJ) for k, v in narrow(s).items()},
        f"{OTHER}.alpha": torch.zeros(()),
        f"{PROJ}.alpha": torch.zeros(()),
    },
    "two values": {**lora(), f"unet.{LAYER}.lora_A.weight": torch.zeros(2, 16)},
    "mixed alphas": {**lora(), **narrow(OTHER), f"{OTHER}.alpha": torch.tensor(1.0)},
    "names of SimpleTuner": lora(STEM.replace("lora_unet_", "lycoris_")),
    "names of ComfyUI": lora(f"diffusion_model.{LAYER}"),
    "a text encoder that is not there": {
        **lora(),
        **lora("lora_te2_text_model_encoder_layers_0_mlp_fc1"),
        **lora("lora_te2_text_model_encoder_layers_0_self_attn_out_proj"),
    },
    "no alpha and no such text layer": {
        **lora(alpha=None),
        **lora("lora_te1_text_projection", alpha=None),
    },
    "a broken recipe": lora(),
    "text without out_proj": {
        f"{QUERY}.lora_A.default.weight": torch.ones(2, 16),
        f"{QUERY}.lora_B.default.weight": torch.ones(16, 2),
    },
}
"""Files with a whole LoRA for the pipeline in them that cannot be attached as they stand."""

KINDS: dict[str, tuple[State, str]] = {
    "LoHa": (parts("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "alpha"), "a LoHa"),
    "LoKr": (parts("lokr_w1", "lokr_w2", "alpha"), "a LoKr"),
    "GLoRA": (parts("a1.weight", "a2.weight", "b1.weight", "b2.weight", "alpha"), "a GLoRA"),
    "IA3": (parts("weight", "on_input", stem=f"lycoris_{STEM}"), "an (IA)^3"),
    "OFT": (parts("oft_blocks", "alpha"), "an OFT"),
    "full": (parts("diff", "diff_b"), "plain weight differences"),
    "embedding": (named("emb_params", shape=(1, 16)), "a textual inversion"),
    "embedding of SDXL": (named("clip_l", "clip_g", shape=(1, 768)), "a textual inversion"),
    "embedding of diffusers": (named("<cat-toy>", shape=(768,)), "a textual inversion"),
    "embedding with any name": (named("cat", shape=(4, 1024)), "a textual inversion"),
    "Flux": (peft("transformer.single_transformer_blocks.0.attn.to_k"), "a LoRA for Flux"),
    "Flux of kohya": (lora("lora_unet_double_blocks_0_img_attn_qkv"), "a LoRA for Flux"),
    "Flux of ComfyUI": (peft("diffusion_model.single_blocks.0.linear1"), "a LoRA for Flux"),
    "SD3": (peft("transformer.transformer_blocks.0.attn.add_k_proj"), "Stable Diffusion 3"),
    "SD3 of kohya": (lora("lora_unet_joint_blocks_0_x_block_attn_qkv"), "Stable Diffusion 3"),
    "Wan": (peft("diffusion_model.blocks.0.cross_attn.k"), "a LoRA for Wan"),
    "Wan of kohya": (lora("lora_unet_blocks_0_self_attn_q"), "a LoRA for Wan"),
    "Qwen-Image": (peft("transformer_blocks.0.img_mlp.net.2"), "a LoRA for Qwen-Image"),
    "PixArt": (peft("transformer.transformer_blocks.0.attn1.to_k"), "a diffusion transformer"),
    "Z-Image": (peft("diffusion_model.layers.0.attention.to_q"), "Z-Image"),
    "Cascade": (lora("lora_prior_unet_down_blocks_0_0_channelwise_0"), "Stable Cascade"),
    "Llama": (peft("base_model.model.model.layers.0.self_attn.q_proj"), "a language model"),
    "LTX": (peft("diffusion_model.transformer_blocks.0.attn1.to_k"), "a diffusion transformer"),
    "Wan of diffusers": (peft("transformer.blocks.0.attn1.to_k"), "a LoRA for Wan"),
    "RoBERTa": (peft("base_model.model.roberta.encoder.layer.0.output"), "another model of trans"),
    "no known network": (peft("base_model.model.mine.fc"), "an adapter of another network"),
    "DoRA": ({**lora(), **parts("dora_scale")}, "a DoRA"),
    "scales of 8 bits": ({**lora(), **named("scaled_fp8")}, "the scale of numbers of 8 bits"),
    "Control-LoRA": (named("lora_controlnet", "input_blocks.0.0.weight"), "a Control-LoRA"),
    "LLLite": (named("lllite_unet_input_blocks_4_1.down.0.weight"), "a ControlNet-LLLite"),
    "T2I-Adapter": (named("adapter.body.0.in_conv.weight"), "a T2I-Adapter"),
    "motion": (peft("down_blocks.0.motion_modules.0.temporal_transformer.proj_in"), "AnimateDiff"),
    "ControlNet": (named("control_model.input_blocks.0.0.weight"), "a ControlNet"),
    "ControlNet of diffusers": (named("controlnet_cond_embedding.conv_in.weight"), "a ControlNet"),
    "IP-Adapter": (named("image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"), "an IP-Adapter"),
    "VAE": (named("encoder.conv_in.weight", "decoder.conv_in.weight"), "a VAE"),
    "checkpoint": (
        named("model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.quant_conv.bias"),
        "a whole checkpoint",
    ),
    "U-Net": (named("down_blocks.0.resnets.0.conv1.weight"), "a whole U-Net"),
    "hypernetwork": (named("768.0.linear.0.weight"), "a hypernetwork"),
    "upscaler": (named("body.0.rdb1.conv1.weight"), "an upscaler"),
    "CLIP": (named("text_model.embeddings.token_embedding.weight"), "a CLIP model"),
}
"""Files that hold no LoRA for Stable Diffusion, and what they are."""
