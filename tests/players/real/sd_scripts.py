"""Asks kohya's sd-scripts: `python sd_scripts.py CHECKOUT FOLDER`. `create_network_from_weights`
makes a network of each file for its own U-Net, which has no memory.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import diffusers.schedulers
import torch
import transformers

from tests.players.real.asking import Asked, answer, answer_layers, work
from tests.players.real.stand_ins import stand_in

WIDTHS = {"SD 1.5": (8, 768, False), "SD 2.1": ([5, 10, 20, 20], 1024, True)}
"""Heads, width of the text and whether projections are linear: its U-Net's arguments."""


def unet_of(name: str) -> Any:
    """Its own U-Net on the meta device; None for one that it has no class of."""
    with torch.device("meta"):
        if name == "SDXL":
            return import_module("library.sdxl_original_unet").SdxlUNet2DConditionModel()
        if name not in WIDTHS:
            return None
        heads, width, linear = WIDTHS[name]
        return import_module("library.original_unet").UNet2DConditionModel(
            sample_size=64,
            attention_head_dim=heads,
            cross_attention_dim=width,
            use_linear_projection=linear,
        )


def ask_layers(asked: Asked) -> None:
    """One file. For SDXL the names become those of the original model."""
    unet = unet_of(asked.name)
    if unet is None:
        answer("layers", file=asked.name, taken=None)
        return
    lora = import_module("networks.lora")
    network, state = lora.create_network_from_weights(
        1.0, str(asked.file), None, [], unet, for_inference=True
    )
    network.apply_to([], unet, apply_text_encoder=False, apply_unet=True)
    info = network.load_state_dict(state, False)
    assert not info.missing_keys, info.missing_keys[:3]
    weights = {layer.lora_name: layer for layer in network.unet_loras}
    stems = [name.split(".")[0] for name in asked.tensors() if name.endswith(".alpha")]
    theirs = renamed(lora, stems) if asked.name == "SDXL" else dict(zip(stems, stems, strict=True))
    found = {stem: weights[name].get_weight for stem, name in theirs.items() if name in weights}
    answer_layers(asked, found)
    answer("left over", file=asked.name, keys=len(info.unexpected_keys))


def renamed(lora: Any, stems: list[str]) -> dict[str, str]:
    """What its converter for SDXL makes of every layer's name: told by values, as its order is
    its own.
    """
    state = {f"{stem}.alpha": torch.tensor(number) for number, stem in enumerate(stems)}
    lora.convert_diffusers_to_sai_if_needed(state)
    return {stems[int(number)]: key.split(".")[0] for key, number in state.items()}


def main() -> None:
    assert diffusers.schedulers and transformers  # look for torchvision before it is stood in for
    stand_in("torchvision", "cv2")
    _, files = work()
    for asked in files:
        ask_layers(asked)


if __name__ == "__main__":
    main()
