"""Reading adapter files: of every layout, mixed or damaged. Only safetensors are opened, since
pickles can run code.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft.utils.other import get_pattern_key
from torch import Tensor

from lcm.adapter.files import AdapterError, load_tensors
from lcm.adapter.locate import find
from lcm.adapter.names import PEFT_CONFIG, PEFT_WEIGHTS
from lcm.adapter.recipe import Recipe
from lcm.formats.factors import Adapter, Factors
from lcm.formats.keys import Slot, parse

METADATA_KEY = "lora_adapter_metadata"
"""Header key under which diffusers keeps the PEFT configuration, by component."""

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


# --- the strength, where no tensor states it ------------------------------------------------------


def json_object(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise AdapterError(
            f"{where} is not valid JSON ({error}); export the adapter again"
        ) from error
    if not isinstance(value, dict):
        raise AdapterError(f"{where} is no JSON object; export the adapter again")
    return value


def configurations(path: Path, header: dict[str, str]) -> dict[str, dict[str, Any]]:
    """PEFT's configuration of every component that the header, or the file beside the weights,
    describes.
    """
    if METADATA_KEY in header:
        flat = json_object(header[METADATA_KEY], f"{METADATA_KEY} in {path}")
        found: dict[str, dict[str, Any]] = {}
        for key, value in flat.items():
            component, _, name = key.rpartition(".")
            found.setdefault(component or "unet", {})[name] = value
        return found
    beside = path.with_name(PEFT_CONFIG)
    if path.name == PEFT_WEIGHTS and beside.is_file():
        return {"unet": json_object(beside.read_text(), str(beside))}
    return {}


def configured_alpha(config: dict[str, Any], layer: str, rank: int) -> float:
    """PEFT's rule: alpha of the layer or of all, times sqrt(rank) where the scale is alpha /
    sqrt(rank).
    """
    pattern: dict[str, float] = config.get("alpha_pattern") or {}
    alpha = float(pattern.get(get_pattern_key(pattern.keys(), layer), config["lora_alpha"]))
    return alpha * math.sqrt(rank) if config.get("use_rslora") else alpha


# --- matrices into layers -------------------------------------------------------------------------


@dataclass
class Parts:
    """The tensors of one layer that have come so far, and the keys they came from."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)

    def put(self, key: str, slot: Slot, tensor: Tensor) -> str | None:
        """What is wrong, if the tensor cannot be taken. The same values twice are once."""
        if slot.part in self.tensors and not same(self.tensors[slot.part], tensor):
            return (
                f"{key} and {self.keys[slot.part]} are the same tensor of the same layer with "
                "different values; delete one"
            )
        self.tensors[slot.part], self.keys[slot.part] = tensor, key
        return None


def same(one: Tensor, other: Tensor) -> bool:
    return one.numel() == other.numel() and torch.equal(
        one.flatten().double(), other.flatten().double()
    )


def tensor_problem(tensor: Tensor, part: str) -> str | None:
    if part == "alpha":
        if tensor.numel() != 1 or not math.isfinite(float(tensor)) or float(tensor) == 0:
            return (
                "is no usable alpha "
                f"({tensor.tolist() if tensor.numel() < 5 else list(tensor.shape)}); delete it and "
                "pass --alpha"
            )
        return None
    if tensor.dtype not in FLOATS:
        return f"holds {tensor.dtype} values; export the adapter in float16, bfloat16 or float32"
    if tensor.dim() not in (2, 4) or not tensor.numel():
        return f"has the shape {list(tensor.shape)}; a LoRA's matrices have 2 or 4 axes"
    if not tensor.isfinite().all():
        return (
            "holds values that are not finite; the training diverged, or the precision was too low"
        )
    return None


def pair_problem(parts: Parts) -> str | None:
    """What keeps the two matrices from being a LoRA."""
    if missing := [part for part in ("down", "up") if part not in parts.tensors]:
        return (
            f"{next(iter(parts.keys.values()))} has no {missing[0]} matrix beside it; its layer "
            "is incomplete"
        )
    down, up = parts.tensors["down"], parts.tensors["up"]
    if down.shape[0] != up.shape[1] or (up.dim() == 4 and up.shape[2:] != (1, 1)):
        return (
            f"{parts.keys['down']} of {list(down.shape)} and {parts.keys['up']} of "
            f"{list(up.shape)} do not fit each other: the first axis of the one is the rank, the "
            "second of the other"
        )
    return None


def collect(
    tensors: dict[str, Tensor], layers_per_block: int
) -> tuple[dict[str, Parts], list[Slot], list[str]]:
    """Parts by layer, the slots that were recognised, and a problem for each tensor that was
    not.
    """
    found: dict[str, Parts] = {}
    slots, problems = [], []
    for key, tensor in tensors.items():
        try:
            slot = parse(key, layers_per_block)
        except ValueError as error:
            problems.append(f"{key} is dropped: {error}")
            continue
        if wrong := tensor_problem(tensor, slot.part):
            problems.append(f"{key} {wrong}")
            continue
        slots.append(slot)
        if wrong := found.setdefault(slot.module, Parts()).put(key, slot, tensor):
            problems.append(wrong)
    return found, slots, problems


def paired(parts: Parts, alpha: float) -> Factors:
    """A 4-axis matrix beside a 2-axis one is the same 1 x 1 convolution spelt twice: `down`
    decides.
    """
    down, up = parts.tensors["down"], parts.tensors["up"]
    up = up.flatten(1) if down.dim() == 2 else up.reshape(*up.shape[:2], 1, 1)
    return Factors(down, up, alpha)


def stated_alpha(module: str, parts: Parts, configs: dict[str, dict[str, Any]]) -> float | None:
    """The alpha of a layer, from its own tensor or else from PEFT's configuration; None where
    neither states it.
    """
    if "alpha" in parts.tensors:
        return float(parts.tensors["alpha"])
    component, _, layer = module.partition(".")
    config = configs.get(component, {})
    if "lora_alpha" not in config:
        return None
    return configured_alpha(config, layer, parts.tensors["down"].shape[0])


def read_adapter(
    path: str | Path, alpha: float | None = None, layers_per_block: int | None = None
) -> Adapter:
    """Every layout, mixed and half converted files too, from a file, a folder or a hub id.

    `alpha` is that of layers which state none; without it, alpha = rank is assumed and noted.
    `layers_per_block` is that of the U-Net, for files with ldm block numbers; without it, 2 is
    assumed and noted. What is not understood is in `problems`; `checked()` raises for it. Raises
    FileNotFoundError for no file, AdapterError for an unreadable one, ValueError for an alpha where
    all have their own.
    """
    file = find(path)
    tensors, header = load_tensors(file)
    # problems are collected, not raised: lcm inspect shows all of them, and repair what is left
    found, slots, problems = collect(tensors, layers_per_block or 2)
    if problems and not found:
        raise AdapterError(
            f"{file} holds no LoRA: of its {len(tensors)} tensors none can be used. {problems[0]}"
        )
    configs = configurations(file, header)
    if any(config.get("use_dora") for config in configs.values()):
        problems.append(
            f"{file}: its configuration says use_dora, which a plain LoRA cannot express"
        )
    modules, assumed = {}, []
    for module, parts in found.items():
        if wrong := pair_problem(parts):
            problems.append(wrong)
            continue
        value = stated_alpha(module, parts, configs)
        if value is None:
            assumed.append(module)
            value = float(parts.tensors["down"].shape[0]) if alpha is None else alpha
        modules[module] = paired(parts, value)
    if alpha is not None and modules and not assumed:
        raise ValueError(
            f"{file} states alpha for all its {len(modules)} layers; leave --alpha out"
        )
    # diffusers gives such layers the alpha of another one, so that guessing would be no better
    if alpha is None and 0 < len(assumed) < len(modules):
        problems.append(
            f"{assumed[0]} and {len(assumed) - 1} more of {len(modules)} layers do not state "
            "alpha, and the others do; pass --alpha for them, or restore the file"
        )
    if not modules and not problems:
        problems.append(f"{file} holds no tensors; export the adapter again")
    problems += recipe_problems(header, file)
    said = notes(assumed, alpha, header)
    if layers_per_block is None and any("ldm" in slot.layout for slot in slots):
        said.append(
            "blocks are numbered as in the original model: read with 2 layers a block; --base, "
            "where a verb has it, says how many"
        )
    return Adapter(modules, header, slots, said, problems)


def recipe_problems(header: dict[str, str], file: Path) -> list[str]:
    """What is wrong with the recipe, where there is one."""
    try:
        Recipe.from_header(header, file)
    except ValueError as error:
        return [str(error)]
    return []


def notes(assumed: list[str], alpha: float | None, header: dict[str, str]) -> list[str]:
    """What was assumed of a file that does not say it."""
    if not assumed or alpha is not None:
        return []
    stated = header.get("ss_network_alpha")
    hint = f"; its header says ss_network_alpha {stated}" if stated else ""
    return [
        (
            f"no layer states alpha: taken as the rank, so that the scale is 1{hint} (--alpha "
            "overrides)"
        )
    ]
