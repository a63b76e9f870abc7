"""HPS v2.1, a CLIP ViT-H that people's choices tuned. Its file has the names of open_clip, which
are turned into those of transformers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from lcm.evaluation.features import NetKind
from lcm.evaluation.nets.clip import WORDS, TextAndImage, tokenizer_of
from lcm.evaluation.weights import Weights, tensors_of

FILE = "HPS_v2.1_compressed.pt"
WEIGHTS = Weights("HPSv2", (FILE,), repo="xswu/HPSv2")

HEAD_WIDTHS = {1280: 80}
"""Width of a head by that of the network, 64 in all but the vision part of ViT-H."""
LAYER = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
PARTS = {
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "logit_scale": "logit_scale",
}
TURNED = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}
"""What open_clip multiplies from the other side."""


def config_of(tensors: Mapping[str, Tensor]) -> CLIPConfig:
    """The sizes of the network, read off its tensors."""
    depth = {
        tower: 1 + max(int(m[1]) for name in tensors if (m := re.match(rf"{tower}(\d+)\.", name)))
        for tower in (r"visual\.transformer\.resblocks\.", r"transformer\.resblocks\.")
    }
    first = tensors["visual.conv1.weight"]
    wide, patch = first.shape[0], first.shape[-1]
    side = patch * round((len(tensors["visual.positional_embedding"]) - 1) ** 0.5)
    words, narrow = tensors["token_embedding.weight"].shape
    joint = tensors["text_projection"].shape[1]
    vision_depth, text_depth = depth.values()
    common = {"hidden_act": "gelu", "projection_dim": joint}
    vision = {
        **{"hidden_size": wide, "num_hidden_layers": vision_depth, "patch_size": patch},
        **{"num_attention_heads": wide // HEAD_WIDTHS.get(wide, min(64, wide))},
        **{"intermediate_size": len(tensors["visual.transformer.resblocks.0.mlp.c_fc.bias"])},
        **{"image_size": side, **common},
    }
    text = {
        **{"hidden_size": narrow, "num_hidden_layers": text_depth, "vocab_size": words},
        **{"num_attention_heads": narrow // min(64, narrow)},
        **{"intermediate_size": len(tensors["transformer.resblocks.0.mlp.c_fc.bias"])},
        **{"max_position_embeddings": len(tensors["positional_embedding"])},
        # the last token of a text is its largest
        **{"bos_token_id": words - 2, "eos_token_id": words - 1, **common},
    }
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=joint)


def renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of open_clip by the names of transformers."""
    found = {}
    for name, tensor in ((name, tensor.float()) for name, tensor in tensors.items()):
        if name in PARTS:
            found[PARTS[name]] = tensor
        elif name in TURNED:
            found[TURNED[name]] = tensor.T.contiguous()
        elif match := re.fullmatch(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)", name):
            tower = "vision_model" if match[1] else "text_model"
            stem = f"{tower}.encoder.layers.{match[2]}"
            part, _, kind = match[3].rpartition(".")
            if part == "attn":  # in_proj_weight and in_proj_bias
                ends = ("q_proj", "k_proj", "v_proj")
                for end, third in zip(ends, tensor.chunk(3), strict=True):
                    found[f"{stem}.self_attn.{end}.{kind.removeprefix('in_proj_')}"] = third
            elif part in LAYER:
                found[f"{stem}.{LAYER[part]}.{kind}"] = tensor
    return found


def build(tensors: Mapping[str, Tensor]) -> CLIPModel:
    """The network. Raises KeyError, RuntimeError or ValueError for tensors of another one."""
    network = CLIPModel(config_of(tensors))
    lacking, left_over = network.load_state_dict(renamed(tensors), strict=False)
    lacking = [name for name in lacking if not name.endswith("position_ids")]
    if lacking or left_over:
        raise ValueError(f"{(lacking or left_over)[0]} has no place")
    return network


def load(places: Sequence[Path], device: torch.device) -> TextAndImage:
    """From the folder of the file, and that of the words."""
    path = places[0] / FILE
    try:
        network = build(tensors_of(path))
    except (KeyError, RuntimeError, ValueError, IndexError) as error:
        raise ValueError(
            f"{path} is not HPS v2.1 ({error}); remove it, and download it again"
        ) from error
    return TextAndImage(network.eval().to(device), tokenizer_of(places[1]), device, whole=True)


HPSV2 = NetKind(load, (WEIGHTS, WORDS))
