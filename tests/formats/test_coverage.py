"""An adapter of a model with blocks left out is told from one of chosen layers or blocks, on the
published architectures, which are on the meta device and take no memory.
"""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn

import lcm
from lcm.adapter.export import export_lora
from lcm.adapter.lora import add_lora
from lcm.adapter.names import LORA_TARGETS
from lcm.formats.coverage import unserved
from tests.support.ldm import SD15_UNET, SDXL_UNET, SSD1B_UNET
from tests.support.verbs import run
from tests.support.worlds import build_sd, build_unet, randomize_lora

MODELS: dict[str, dict[str, Any]] = {
    "sd": SD15_UNET,
    "sdxl": SDXL_UNET,
    # Segmind Vega; nota-ai/bk-sdm-base and -small, as their config.json have it
    "ssd-1b": SSD1B_UNET,
    "vega": {
        **SDXL_UNET,
        "transformer_layers_per_block": [1, [2, 1], [2, 2]],
        "reverse_transformer_layers_per_block": [[2, 2, 2], [2, 1, 1], 1],
        "mid_block_type": "UNetMidBlock2D",
    },
    "bk-sdm-base": {**SD15_UNET, "layers_per_block": 1},
    "bk-sdm-small": {**SD15_UNET, "layers_per_block": 1, "mid_block_type": None},
}
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
TARGETS = {
    "all": LORA_TARGETS,
    "attention": ATTENTION,
    "cross attention": tuple(f"attn2.{name}" for name in ATTENTION),
}


@cache
def layers(model: str) -> tuple[str, ...]:
    with torch.device("meta"):
        unet = UNet2DConditionModel(**MODELS[model])
    return tuple(n for n, m in unet.named_modules() if isinstance(m, nn.Linear | nn.Conv2d))


def chosen(model: str, targets: tuple[str, ...], blocks: tuple[str, ...] = ("",)) -> list[str]:
    return [
        name
        for name in layers(model)
        if name.startswith(blocks) and any(f".{name}".endswith(f".{end}") for end in targets)
    ]


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize(
    ("pruned", "whole"),
    [("ssd-1b", "sdxl"), ("vega", "sdxl"), ("bk-sdm-base", "sd"), ("bk-sdm-small", "sd")],
)
def test_an_adapter_of_a_pruned_model_leaves_blocks_of_the_whole_one_alone(
    pruned: str, whole: str, targets: str
) -> None:
    theirs = chosen(pruned, TARGETS[targets])
    missing = unserved(theirs, layers(whole))
    assert missing
    # the blocks that the pruned model has not, and no others
    assert not any(name.startswith(tuple(f"{block}." for block in missing)) for name in theirs)
    assert unserved(theirs, layers(pruned)) == []


SECTIONS = {
    "everything": ("",),
    "up blocks": ("up_blocks",),
    "down blocks": ("down_blocks",),
    "middle": ("mid_block",),
    "without the middle": ("down_blocks", "up_blocks"),
    "B-LoRA": ("up_blocks.0.attentions.0", "up_blocks.0.attentions.1"),
    "the first of all": ("down_blocks.1.attentions.0", "up_blocks.1.attentions.0", "mid_block"),
    "IN08, MID, OUT03 to 05": ("down_blocks.2.attentions.1", "mid_block", "up_blocks.1"),
    "the second of each": tuple(
        f"{side}_blocks.{n}.attentions.1" for side in ("down", "up") for n in range(4)
    ),
    "one transformer block": ("up_blocks.1.attentions.0.transformer_blocks.0",),
    "first of each": tuple(
        f"{side}_blocks.{n}.attentions.0" for side in ("down", "up") for n in range(4)
    ),
}
"""Parts of a U-Net that trainers and their users choose."""


@pytest.mark.parametrize("model", ["sd", "sdxl"])
@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("targets", TARGETS)
def test_chosen_layers_and_blocks_are_a_choice(model: str, section: str, targets: str) -> None:
    assert unserved(chosen(model, TARGETS[targets], SECTIONS[section]), layers(model)) == []


def test_convolutions_of_one_side_beside_attention_everywhere_are_a_choice() -> None:
    theirs = [*chosen("sd", ATTENTION), *chosen("sd", ("conv1", "conv2"), ("down_blocks",))]
    assert unserved(theirs, layers("sd")) == []


def test_it_is_said_wherever_an_adapter_meets_a_base(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = build_sd(unet=build_unet(transformer_layers_per_block=1))
    add_lora(small.unet, 2)
    randomize_lora(small.unet)
    export_lora(small.unet, tmp_path / "small.safetensors", lcm.Recipe.lcm_lora(small))
    large = build_sd(unet=build_unet(transformer_layers_per_block=2))
    large.save_pretrained(tmp_path / "large")
    message = "has down_blocks.0.attentions.0.transformer_blocks.1 and 3 more blocks"
    with pytest.warns(UserWarning, match=message) as caught:
        lcm.attach(large, tmp_path / "small.safetensors")
    assert caught[0].filename == __file__
    base = ("--base", tmp_path / "large")
    assert run("verify", tmp_path / "small.safetensors", *base) == 0
    assert message in capsys.readouterr().out
    assert run("merge", tmp_path / "small.safetensors", *base, "--output", tmp_path / "out") == 0
    assert message in capsys.readouterr().out
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lcm.attach(
            small := build_sd(unet=build_unet(transformer_layers_per_block=1)),
            tmp_path / "small.safetensors",
        )
    assert small
