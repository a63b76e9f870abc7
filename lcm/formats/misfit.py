"""Adapters and base models of different families, told apart by the width of the text that their
U-Nets read: a header and a configuration say it before gigabytes are loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from lcm.adapter.files import AdapterError, AdapterFile, opened
from lcm.adapter.names import UNET_FOLDER
from lcm.formats.factors import FAMILIES
from lcm.formats.keys import parse
from lcm.system.json_input import read_object
from lcm.system.values import is_whole

READS_TEXT = ".attn2.to_k"
"""In the name of a layer that reads the text."""
IN_FILE = ("model.diffusion_model.", f"{READS_TEXT}.weight")
"""How its name begins and ends in a single file of the original layout."""
CONFIG = "config.json"


def width_of_config(config: Mapping[str, Any]) -> int | None:
    width = config.get("cross_attention_dim")
    return width if is_whole(width) else None


def width_of_base(base: str) -> int | None:
    """The width that a base model says it has, from a folder, the local cache of the hub or a
    single file; None where that cannot be told, which is for loading to find out.
    """
    folder, file = Path(base), None
    try:
        if folder.is_dir():
            file = folder / UNET_FOLDER / CONFIG
        elif folder.suffix == ".safetensors" and folder.is_file():
            return width_in_file(folder)
        else:
            cached = try_to_load_from_cache(base, f"{UNET_FOLDER}/{CONFIG}")
            file = Path(cached) if isinstance(cached, str) else None
        return None if file is None else width_of_config(read_object(file, ""))
    except (ValueError, OSError):
        return None


def width_in_file(path: Path) -> int | None:
    """The width of a checkpoint in the original layout."""
    start, end = IN_FILE
    with opened(path) as file:
        names = (n for n in file.keys() if n.startswith(start) and n.endswith(end))  # noqa: SIM118
        name = next(names, None)
        return None if name is None else int(file.get_slice(name).get_shape()[1])


def width_of_adapter(file: AdapterFile) -> int | None:
    """The width of the text that the layers of a file read."""
    for key, tensor in file.tensors.items():
        if "attn2" in key and "to_k" in key and tensor.dim() == 2:
            try:
                slot = parse(key)
            except ValueError:
                continue
            if slot.part == "down" and slot.module.startswith("unet."):
                return tensor.shape[1]
    return None


def other_kind(theirs: int | None, ours: int | None) -> str:
    """For what an adapter was made instead, as far as the widths of the text say it."""
    kind = "the adapter was made for another kind of model"
    if not theirs or not ours or theirs == ours:
        return kind
    names = [FAMILIES.get(width, "another family") for width in (theirs, ours)]
    return f"{kind}, {names[0]} with text width {theirs}, and this one is {names[1]} with {ours}"


def check_widths(base: str, files: Iterable[AdapterFile]) -> None:
    """Raises AdapterError for an adapter that was made for another family than the base, as far as
    it can be told without loading it.
    """
    ours = width_of_base(base)
    for file in files:
        theirs = width_of_adapter(file)
        if ours and theirs and ours != theirs:
            raise AdapterError(f"{file.path} on {base}: {other_kind(theirs, ours)}")
