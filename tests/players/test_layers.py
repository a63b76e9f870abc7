"""Every program takes every layer of our files at its place and strength, at published sizes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from lcm.adapter.export import family_header
from lcm.adapter.kohya import layer_tensors
from lcm.adapter.lora import add_lora, lora_modules
from tests.players import a1111, comfyui, invokeai, kohya, stable_diffusion_cpp
from tests.support.ldm import ORIGINALS, SDXL, SSD1B, Original, kohya_name, ldm_layers
from tests.support.ldm import diffusers_name as ours

RANK, ALPHA = 4, 2.0
PLAYERS: dict[str, Callable[[dict[str, Tensor], Original], dict[str, float]]] = {
    "ComfyUI": comfyui.places,
    "A1111": a1111.places,
    "sd-scripts": kohya.places,
    "InvokeAI": invokeai.places,
    "stable-diffusion.cpp": stable_diffusion_cpp.places,
}
UPSAMPLER = "output_blocks.2.2.conv"
"""The first of SDXL, which A1111 looks for where SD 1.x has it."""


def written(model: Original) -> dict[str, Tensor]:
    return of_size(model.name)


@cache
def of_size(name: str) -> dict[str, Tensor]:
    """The tensors of our file for a U-Net of this size, without memory but for the alphas."""
    (model,) = [model for model in ORIGINALS if model.name == name]
    with torch.device("meta"):
        unet = UNet2DConditionModel(**model.unet)
        add_lora(unet, RANK, ALPHA)
    state: dict[str, Tensor] = {}
    for path, layer in lora_modules(unet).items():
        down, up = (part["default"].weight for part in (layer.lora_A, layer.lora_B))
        stem = f"lora_unet_{path.replace('.', '_')}"
        state |= layer_tensors(stem, down, up, layer.lora_alpha["default"])
    return state


@pytest.mark.parametrize("player", PLAYERS)
@pytest.mark.parametrize("model", ORIGINALS, ids=lambda model: model.name)
def test_every_layer_is_taken_at_its_strength(player: str, model: Original) -> None:
    layers = [name for name, _ in ldm_layers(model)]
    assert len(layers) == model.modules == len(written(model)) / 3
    left_out = {UPSAMPLER} if player == "A1111" and model in (SDXL, SSD1B) else set()
    assert PLAYERS[player](written(model), model) == {
        name: ALPHA / RANK for name in layers if name not in left_out
    }


@pytest.mark.parametrize("player", PLAYERS)
@pytest.mark.parametrize("model", ORIGINALS, ids=lambda model: model.name)
def test_a_file_with_a_name_that_is_none_is_noticed(player: str, model: Original) -> None:
    """What makes the test above able to fail: every single name counts."""
    state = dict(written(model))
    name = next(name for name, _ in ldm_layers(model) if name.endswith("to_q"))
    for part in ("lora_down.weight", "lora_up.weight", "alpha"):
        state[f"{kohya_name(name)}_x.{part}"] = state.pop(f"{kohya_name(name)}.{part}")
    assert name not in PLAYERS[player](state, model)


@pytest.mark.parametrize("model", ORIGINALS, ids=lambda model: model.name)
def test_what_the_product_says_of_diffusers_layout_is_what_they_do(model: Original) -> None:
    """ComfyUI leaves out attention and takes alpha for 1, A1111 takes nothing."""
    state = {}
    for name, _ in ldm_layers(model):
        for old, new in (
            ("lora_down.weight", "lora_A.weight"),
            ("lora_up.weight", "lora_B.weight"),
        ):
            state[f"unet.{ours(name)}.{new}"] = written(model)[f"{kohya_name(name)}.{old}"]
        state[f"unet.{ours(name)}.alpha"] = torch.tensor(ALPHA)
    taken = comfyui.places(state, model)
    assert taken.keys() == {name for name, _ in ldm_layers(model) if ".attn" not in name}
    assert a1111.places(state, model) == {}


FAMILIES: dict[str, tuple[Any, ...]] = {
    "SD 1.5": ("sd", 768, "epsilon"),
    "SD 2.1": ("sd", 1024, "v_prediction"),
    "SDXL": ("sdxl", 2048, "epsilon"),
    "SSD-1B": ("sdxl", 2048, "epsilon"),
}


@pytest.mark.parametrize(
    ("model", "shelf"), zip(FAMILIES, ("SD1", "SD2", "SDXL", "SDXL"), strict=True)
)
def test_a1111_sorts_a_file_where_it_belongs(model: str, shelf: str) -> None:
    assert a1111.family(family_header(*FAMILIES[model], RANK, ALPHA)) == shelf


def test_a_name_that_two_files_have_in_their_headers_stands_for_none() -> None:
    """Why a file has `ss_output_name` only where its user has named it."""
    same = {"ss_output_name": "pytorch_lora_weights"}
    assert a1111.prompts([("a", same)])["pytorch_lora_weights"] == "a"
    assert a1111.prompts([("a", same), ("b", same)]) == {
        "a": "a",
        "b": "b",
        "pytorch_lora_weights": None,
    }
    assert a1111.prompts([("a", {}), ("b", {})]) == {"a": "a", "b": "b"}
