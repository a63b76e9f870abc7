"""What a safetensors file is where it is no LoRA for Stable Diffusion, and what can be done with
it: told from the names and shapes of its tensors.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from lcm.adapter.files import AdapterFile


class Kind(NamedTuple):
    """In words: what a file is, and what to do with it."""

    what: str
    use: str


ADAPTER = re.compile(
    r"[._]lora[._](?:down|up|mid|[AB]|linear_layer)|\.lora_|\.hada_|\.lokr_|\.oft_|\.boft_"
    r"|\.ia3_|\.on_input$|\.vera_|\.dora_scale$|\.[ab][12]\.weight$|\.alpha$"
)
"""Names that adapters alone have."""

LYCORIS = (
    "diffusers does not read it; ComfyUI and A1111 do, else use a version of it as a plain LoRA"
)
OTHER_FAMILY = (
    "use it with a pipeline of that model, and here a LoRA of Stable Diffusion 1, 2 or XL"
)

ALGORITHMS = (
    (r"\.hada_", Kind("a LoHa (LyCORIS)", LYCORIS)),
    (r"\.lokr_", Kind("a LoKr (LyCORIS)", LYCORIS)),
    (r"\.[ab][12]\.weight$|glora", Kind("a GLoRA (LyCORIS)", LYCORIS)),
    (r"\.on_input$|\.ia3_", Kind("an (IA)^3 adapter", LYCORIS)),
    (r"\.b?oft_|^oft_unet", Kind("an OFT adapter", LYCORIS)),
    (r"\.dora_scale|lora_magnitude", Kind("a DoRA", "ComfyUI plays it; here use a plain LoRA")),
    (r"vera_lambda", Kind("a VeRA adapter", "use a plain LoRA")),
    (r"\.lora_mid\.", Kind("a LoCon with Tucker cores (LyCORIS)", LYCORIS)),
)
"""Adapters of other kinds, by a name that they alone have."""

FAMILIES = (
    ("Stable Cascade", r"lora_prior_unet|channelwise|clip_txt_mapper"),
    ("AnimateDiff's motion module", r"motion_modules|temporal_transformer"),
    ("ControlNet", r"lora_controlnet|control_model|controlnet|input_hint_block|zero_convs"),
    ("Qwen-Image", r"img_mlp|txt_mlp|transformer_blocks[._]\d+[._](?:img|txt)_mod"),
    (
        "Flux or a model of its kind (Chroma, HunyuanVideo)",
        r"single_transformer_blocks|double_blocks|single_blocks",
    ),
    ("HiDream", r"(?:double|single)_stream_blocks"),
    ("Stable Diffusion 3", r"joint_blocks|attn[._]add_[qkv]_proj|lora_te3_|text_encoder_3"),
    (
        "Z-Image or Lumina",
        r"noise_refiner|context_refiner|layers[._]\d+[._](?:attention|feed_forward)",
    ),
    (
        "Wan or another video transformer",
        r"(?<!transformer_)(?<!down_)(?<!up_)blocks[._]\d+[._](?:self_attn|cross_attn|ffn|attn[12])",
    ),
    (
        "a language model",
        r"layers[._]\d+[._](?:self_attn|mlp)[._](?:o_proj|gate_proj|up_proj)|lm_head",
    ),
    (
        "a language model or T5",
        r"^(?:base_model\.model\.)?model\.layers\.\d+|encoder[._]block[._]\d+",
    ),
    (
        "a diffusion transformer (PixArt, Sana, LTX-Video, CogVideoX or the like)",
        r"^(?:diffusion_model\.|lora_unet_|unet\.)?transformer_blocks[._]"
        r"|^(?:lora_)?transformer[._]|patchify_proj|adaln_single",
    ),
    (
        "another model of transformers (language, speech or vision)",
        r"^(?:base_model\.model\.)?(?:model|roberta|bert|distilbert|deberta|vit|gpt_neox)\."
        r"|query_key_value|transformer\.h\.\d",
    ),
)
"""Models that are not Stable Diffusion, by names of layers that Stable Diffusion has not."""

MODELS = (
    (
        r"^emb_params$|string_to_param|^<.*>$|^clip_[lg]$|^t5xxl$",
        Kind(
            "a textual inversion (an embedding of the text encoder)",
            "load it by pipe.load_textual_inversion",
        ),
    ),
    (
        r"^(?:image_proj|ip_adapter)\.",
        Kind("an IP-Adapter", "load it by pipe.load_ip_adapter"),
    ),
    (r"^lora_controlnet$", Kind("a Control-LoRA", "ComfyUI plays it")),
    (r"lllite_", Kind("a ControlNet-LLLite", "ComfyUI and A1111 have extensions that play it")),
    (
        r"^adapter\.body|^body\.\d+\.(?:in_conv|block)",
        Kind("a T2I-Adapter", "load it as a T2IAdapter, for an adapter pipeline"),
    ),
    (
        r"control_model\.|controlnet_|input_hint_block|zero_convs|controlnet",
        Kind("a ControlNet", "load it as a ControlNetModel, for a ControlNet pipeline"),
    ),
    (
        r"motion_modules|temporal_transformer",
        Kind("a motion module of AnimateDiff", "load it as a MotionAdapter"),
    ),
    (
        r"^model\.diffusion_model\.|^cond_stage_model\.|^conditioner\.embedders\.",
        Kind("a whole checkpoint", "pass it as the base model, not as an adapter"),
    ),
    (
        r"^(?:first_stage_model\.|vae\.)?(?:encoder|decoder)\.(?:conv_in|down|up|mid)|quant_conv",
        Kind("a VAE", "load it by AutoencoderKL.from_single_file, and set pipe.vae"),
    ),
    (
        r"^(?:320|640|768|1024|1280|2048)\.\d+\.",
        Kind("a hypernetwork", "diffusers has none; A1111 plays it"),
    ),
    (
        r"^(?:unet\.)?(?:down_blocks|mid_block|up_blocks)\.|^(?:diffusion_model\.)?input_blocks\.",
        Kind("the weights of a whole U-Net", "load it by UNet2DConditionModel, and set pipe.unet"),
    ),
    (
        r"^(?:text_model|vision_model|text_projection)\b|text_model\.embeddings",
        Kind("a CLIP model", "load it as the text encoder of a pipeline, not as an adapter"),
    ),
    (
        r"RDB\d|rdb\d|^conv_first\.|^upsampler?\.",
        Kind("an upscaler", "use it on pictures, outside of a pipeline"),
    ),
    (
        r"\.(?:diff|diff_b|w_norm|b_norm|set_weight)$",
        Kind("a set of plain weight differences (LyCORIS full)", LYCORIS),
    ),
)
"""Files without an adapter, by names of their tensors."""

EMBEDDING_WIDTHS = (768, 1024, 1280)


def first(table: tuple[tuple[str, Kind], ...], names: list[str]) -> Kind | None:
    return next(
        (kind for pattern, kind in table if any(re.search(pattern, name) for name in names)), None
    )


def family(names: list[str]) -> str | None:
    """The model that is not Stable Diffusion and has such layers."""
    return next(
        (model for model, pattern in FAMILIES if any(re.search(pattern, name) for name in names)),
        None,
    )


def identify(file: AdapterFile) -> Kind | None:
    """What the file is, None where neither names nor shapes say it."""
    names = list(file.tensors)
    adapters = [name for name in names if ADAPTER.search(name)]
    other = family(names)
    if adapters:
        if kind := first(ALGORITHMS, names):
            return kind
        return Kind(f"a LoRA for {other}", OTHER_FAMILY) if other else None
    if kind := first(MODELS, names):
        return kind
    if other:
        return Kind(f"weights of {other}", "use them with a pipeline of that model")
    if 0 < len(names) <= 2 and all(
        tensor.dim() <= 2 and tensor.shape[-1:] and tensor.shape[-1] in EMBEDDING_WIDTHS
        for tensor in file.tensors.values()
    ):
        return MODELS[0][1]
    return None
