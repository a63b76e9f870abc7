"""The names that adapter files, their folders and their layers have, and what a user may write for
them. Imports nothing heavy: command lines read this before any library is loaded.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

WEIGHTS_NAME = "pytorch_lora_weights.safetensors"
"""The adapter file of an output folder, as diffusers calls it."""

PEFT_WEIGHTS, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
"""The two files of a PEFT folder."""

UNET_FOLDER, RECIPE_NAME = "unet", "lcm_recipe.json"
"""The folder of a run that trained the whole U-Net, and the recipe in it."""

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
"""How the names of files end that can run code when they are read: none is ever opened."""

COMPONENTS = ("unet", "text_encoder", "text_encoder_2")
"""The networks of a pipeline that can have adapters, by name."""

LORA_TARGETS = (
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "proj_in",
    "proj_out",
    "ff.net.0.proj",
    "ff.net.2",
    "conv1",
    "conv2",
    "conv_shortcut",
    "downsamplers.0.conv",
    "upsamplers.0.conv",
    "time_emb_proj",
)
"""Name endings of the adapted layers, those of the official LCM-LoRAs: 278 modules on SD 1.5, 788
on SDXL.
"""


def is_full(path: str | os.PathLike[str]) -> bool:
    """Whether this is the output folder of a run that trained the whole U-Net."""
    return Path(path, UNET_FOLDER, RECIPE_NAME).is_file()


def path_and_weight(word: str, flag: str) -> tuple[str, float]:
    """PATH or PATH=WEIGHT, as commands take them. A path that is there may have an equals sign of
    its own.

    Raises ValueError, naming the flag, for a weight that is no finite number.
    """
    path, equals, weight = word.rpartition("=")
    if not equals or Path(word).exists():
        return word, 1.0
    try:
        value = float(weight)
    except ValueError as error:
        raise ValueError(f"{flag}: {weight!r} in {word} is no weight; write PATH=0.8") from error
    if not math.isfinite(value):
        raise ValueError(f"{flag}: the weight in {word} must be a finite number")
    return path, value


def style_name(path: str | os.PathLike[str]) -> str:
    """The adapter name of a style: that of its file, or of its folder or repository where the
    file's says nothing.
    """
    name = Path(path)
    if name.name == WEIGHTS_NAME:
        name = name.absolute().parent
    stem = name.stem if name.suffix == ".safetensors" else name.name
    return stem.replace(".", "_")  # module names have no dots
