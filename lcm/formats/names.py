"""The names of layers: what diffusers calls them, written with dots, from any spelling that adapter
files have.

An underscored name is cut along the words that the architectures are made of, and must then be a
layer that a Stable Diffusion U-Net or a CLIP text encoder can have. Both ways need no model: the
vocabulary is closed, so cutting is exact.
"""

from __future__ import annotations

import re

UNET = re.compile(
    r"conv_in|conv_out|encoder_hid_proj|(?:time|add|class)_embedding\.linear_[12]|time_embedding\.cond_proj"
    r"|(?:(?:down|up)_blocks\.\d+|mid_block)\.(?:"
    r"resnets\.\d+\.(?:conv1|conv2|conv_shortcut|time_emb_proj)"
    r"|downsamplers\.0\.conv|upsamplers\.0\.conv"
    r"|attentions\.\d+\.(?:proj_in|proj_out"
    r"|transformer_blocks\.\d+\.(?:attn[12]\.to_(?:q|k|v|out\.0)|ff\.net\.(?:0\.proj|2))))"
)
TEXT_ENCODER = re.compile(
    r"text_model\.encoder\.layers\.\d+\.(?:self_attn\.(?:q|k|v|out)_proj|mlp\.fc[12])|text_projection|text_model\.text_projection"
)
ATTENTION = re.compile(r".*\.attn[12]\.to_(?:q|k|v|out\.0)")
"""The layers whose alphas `load_lora_weights` of diffusers cannot tell apart in kohya files."""

WORDS = (
    *(
        "down_blocks",
        "up_blocks",
        "mid_block",
        "transformer_blocks",
        "to_q",
        "to_k",
        "to_v",
        "to_out",
        "proj_in",
        "proj_out",
    ),
    *(
        "time_emb_proj",
        "conv_shortcut",
        "conv_in",
        "conv_out",
        "linear_1",
        "linear_2",
        "time_embedding",
        "add_embedding",
    ),
    *(
        "class_embedding",
        "cond_proj",
        "encoder_hid_proj",
        "text_model",
        "self_attn",
        "q_proj",
        "k_proj",
        "v_proj",
        "out_proj",
    ),
    *(
        "text_projection",
        "input_blocks",
        "middle_block",
        "output_blocks",
        "in_layers",
        "emb_layers",
        "out_layers",
    ),
    *("skip_connection", "time_embed", "label_emb"),
)
"""The words of layer names that have an underscore in them."""
WORD = re.compile(rf"({'|'.join(sorted(WORDS, key=len, reverse=True))}|[a-z]+\d*|\d+)(?:_|$)")

RESNET_LEAVES = {
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
LDM_SINGLE = {
    "input_blocks.0.0": "conv_in",
    "out.2": "conv_out",
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
}
LDM_BLOCK = re.compile(r"(input|middle|output)_blocks?\.(\d+)\.(?:(\d+)\.)?(.+)")


def dotted(name: str) -> str:
    """The name with dots, "mid_block_attentions_0_proj_in" -> "mid_block.attentions.0.proj_in"; ""
    for what is no such name.
    """
    words, position = [], 0
    while position < len(name):
        found = WORD.match(name, position)
        if found is None:
            return ""
        words.append(found[1])
        position = found.end()
    return ".".join(words)


def from_ldm(name: str, layers_per_block: int = 2) -> str:
    """The diffusers name of a layer of the original ldm / sgm U-Net; a name that is none comes back
    as it is.

    The original counts the blocks of a side through: `layers_per_block` of them, and one more, make
    a block of diffusers.
    """
    if name in LDM_SINGLE:
        return LDM_SINGLE[name]
    found = LDM_BLOCK.fullmatch(name)
    if found is None:
        return name
    side, number, leaf = found[1], int(found[2]), found[4]
    if side == "middle":
        block, index = "mid_block", number // 2
        leaf = leaf if found[3] is None else f"{found[3]}.{leaf}"
    else:
        place, index = divmod(number - (side == "input"), layers_per_block + 1)
        block = f"{'down' if side == 'input' else 'up'}_blocks.{place}"
    if leaf in ("op", "conv"):
        return f"{block}.{'downsamplers' if leaf == 'op' else 'upsamplers'}.0.conv"
    if leaf in RESNET_LEAVES:
        return f"{block}.resnets.{index}.{RESNET_LEAVES[leaf]}"
    return f"{block}.attentions.{index}.{leaf}"


def is_layer(component: str, name: str) -> bool:
    """Whether a component ("unet", "text_encoder", "text_encoder_2") can have a linear or conv
    layer of this name.
    """
    return (UNET if component == "unet" else TEXT_ENCODER).fullmatch(name) is not None
