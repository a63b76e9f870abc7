"""The names that adapter files, their folders and their layers have, and what a user may write for
them. Imports nothing heavy: command lines read this before any library is loaded.
"""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

WEIGHTS_NAME = "pytorch_lora_weights.safetensors"
"""The adapter file of an output folder, as diffusers calls it."""

OUTPUT_NAME_KEY = "ss_output_name"
"""The header key by which A1111 and Forge call a file in prompts, whatever its own name is; two
files with one value are both called by their own. So only a run whose user has named its file
writes it, and what is made of a file does not take it over.
"""

UNVERIFIED = f"unverified-{WEIGHTS_NAME}"
"""An adapter that has not yet been reloaded and compared."""

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


LARGEST_WEIGHT = 1000
"""The largest weight of an adapter in a sum; usual ones are around 1."""


def is_full(path: str | os.PathLike[str]) -> bool:
    """Whether this is the output folder of a run that trained the whole U-Net."""
    return Path(path, UNET_FOLDER, RECIPE_NAME).is_file()


SUFFIX = ".safetensors"
LONGEST_NAME = 100
"""Letters of a file's name, and twice as many bytes: file systems end at 255, and a file that is
being written has a longer name.
"""
OF_WINDOWS = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Names that Windows keeps for devices, with any suffix."""


def file_stem(name: str) -> str:
    """A name for an adapter file, without .safetensors. Raises ValueError, naming what is wrong,
    for one that some system could not write or some program could not read.
    """
    stem = name[: -len(SUFFIX)] if name.lower().endswith(SUFFIX) else name
    taken = (Path(UNVERIFIED).stem, Path(PEFT_WEIGHTS).stem)
    if not stem.strip(" ."):
        wrong = "is empty"
    elif len(stem) > LONGEST_NAME or len(stem.encode("utf-8", "replace")) > 2 * LONGEST_NAME:
        wrong = f"is longer than {LONGEST_NAME} letters"
    elif found := re.search(r'[\\/<>:"|?*\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]', stem):
        wrong = f"has {found[0]!r} in it, which is not allowed in file names everywhere"
    elif stem[0] in " .~-" or stem[-1] in " .":
        wrong = "begins or ends with a character that hides it or that programs take away"
    elif OF_WINDOWS.fullmatch(stem) or stem in taken:
        wrong = "is taken, by Windows or by another file"
    else:
        return stem
    raise ValueError(
        f"{name!r} {wrong}; pass a plain name such as my-lcm, of which {SUFFIX} is made"
    )


def path_and_weight(word: str, flag: str) -> tuple[str, float]:
    """PATH or PATH=WEIGHT, as commands take them. A path that is there may have an equals sign of
    its own.

    Raises ValueError, naming the flag, for a weight that is no number within `LARGEST_WEIGHT`.
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
    if abs(value) > LARGEST_WEIGHT:
        raise ValueError(
            f"{flag}: the weight in {word} must lie in -{LARGEST_WEIGHT}..{LARGEST_WEIGHT}"
        )
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
