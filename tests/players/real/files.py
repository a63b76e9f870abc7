"""The files that the programs are asked about: adapters of published sizes, made by this toolkit,
with matrices of noise.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from lcm.adapter.export import export_lora
from lcm.adapter.lora import add_lora, lora_parameters
from lcm.adapter.recipe import TeacherFacts
from lcm.methods.build import make_recipe
from lcm.methods.config import MethodConfig, resolved
from tests.support.ldm import ORIGINALS, Original, ldm_layers

RANK, ALPHA = 4, 2.0
"""Small, and a scale that is not 1."""


def adapted(model: Original) -> Any:
    """The U-Net without memory, with an adapter of noise that has some."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**model.unet)
    add_lora(unet, RANK, ALPHA)
    unet.requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in list(unet.named_parameters()):
        if ".lora_" in name:
            module, _, leaf = name.rpartition(".")
            noise = torch.randn(parameter.shape, generator=generator)
            setattr(unet.get_submodule(module), leaf, torch.nn.Parameter(noise))
    assert lora_parameters(unet)
    return unet


def make_files(folder: Path) -> None:
    """One adapter for every model, and `files.json` with what a program must know of them."""
    listed = []
    for model in ORIGINALS:
        unet, file = adapted(model), folder / f"{model.name}.safetensors"
        facts = TeacherFacts(
            family="sdxl" if model.context == 2048 else "sd",
            cross_attention_dim=model.context,
            prediction_type=model.prediction_type,
            zero_terminal_snr=False,
            teacher=model.name,
            resolution=model.unet["sample_size"] * 8,
        )
        export_lora(unet, file, make_recipe(resolved(MethodConfig()), facts))
        shapes = {
            name.replace(".base_layer.", "."): list(parameter.shape)
            for name, parameter in unet.named_parameters()
            if ".lora_" not in name
        }
        listed.append(
            {
                "name": model.name,
                "file": file.name,
                "prediction_type": model.prediction_type,
                "config": model.unet,
                "shapes": shapes,
                "original": dict(ldm_layers(model)),
            }
        )
    (folder / "files.json").write_text(json.dumps(listed))
