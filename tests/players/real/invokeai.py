"""Asks InvokeAI: `python invokeai.py CHECKOUT FOLDER`. Its converters make layers of each file, and
its LayerPatcher finds their places in the U-Net of diffusers, which has no memory.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import diffusers.models
import torch
import transformers
from safetensors.torch import load_file

from tests.players.real.asking import Asked, answer_layers, work
from tests.players.real.stand_ins import Empty, stand_in


def skeleton(asked: Asked) -> torch.nn.Module:
    """The modules of the U-Net that have weights."""
    root = torch.nn.Module()
    for name, shape in asked.shapes.items():
        *path, leaf = name.split(".")
        parent = root
        for part in path:
            if not hasattr(parent, part):
                parent.add_module(part, torch.nn.Module())
            parent = getattr(parent, part)
        parent.register_parameter(leaf, torch.nn.Parameter(torch.empty(shape, device="meta")))
    return root


def ask_layers(asked: Asked) -> None:
    """As its LoRALoader reads a file and its denoising applies one."""
    place = "invokeai.backend.patches"
    sd = import_module(f"{place}.lora_conversions.sd_lora_conversion_utils")
    sdxl = import_module(f"{place}.lora_conversions.sdxl_lora_conversion_utils")
    patcher = import_module(f"{place}.layer_patcher").LayerPatcher
    state = load_file(asked.file)
    if asked.name in ("SDXL", "SSD-1B"):
        state = sdxl.convert_sdxl_keys_to_diffusers_format(state)
    unet, added = skeleton(asked), {}
    for stem, layer in sd.lora_model_from_sd_state_dict(state).layers.items():
        try:
            _, module = patcher._get_submodule(unet, stem.removeprefix("lora_unet_"), True)
        except AttributeError:
            continue

        def weight(layer: Any = layer, shape: Any = module.weight.shape) -> torch.Tensor:
            weights = {"weight": torch.zeros(shape)}
            return layer.get_parameters(weights, weight=1.0)["weight"]

        added[stem] = weight
    answer_layers(asked, added)


AROUND = ("invokeai.backend.model_manager", "invokeai.backend.util", "invokeai.app")
"""Packages of InvokeAI around its patches: its store of models, its log and its server."""


def main() -> None:
    assert diffusers.models and transformers  # look for torchvision before it is stood in for
    _, files = work()
    stand_in("torchvision", "cv2", "blake3", "deprecated", *AROUND)
    for name in AROUND:
        sys.modules[name] = Empty(name)
    for asked in files:
        ask_layers(asked)


if __name__ == "__main__":
    main()
