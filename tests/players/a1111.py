"""A1111, as its extension Lora behaves: a name ends at the first dot, is translated into the
original model's, and looked for among its modules; the strength is alpha / rank, or 1 without one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from tests.players import comfyui
from tests.support.ldm import RES_BLOCK_NAMES, Original, ldm_layers

NAME = re.compile(
    r"lora_unet_(?:(down|up)_blocks_(\d+)|(mid)_block)_(attentions|resnets|downsamplers|upsamplers)"
    r"_(\d+)_(.+)"
)
LEAVES = {theirs: ldm.replace(".", "_") for ldm, theirs in RES_BLOCK_NAMES.items()}


def translated(stem: str) -> str:
    """A name in the file as the original model has it, underscored; as it is where it is neither
    of diffusers' blocks nor a layer in one.
    """
    match = NAME.fullmatch(stem)
    if match is None:
        return stem.removeprefix("lora_unet_")
    side, number, middle, kind, index, leaf = match.groups()
    block = int(number or 0) * 3
    if middle:
        place = "middle_block_1" if kind == "attentions" else f"middle_block_{2 * int(index)}"
        return f"{place}_{LEAVES.get(leaf, leaf)}"
    if kind == "downsamplers":
        return f"input_blocks_{block + 3}_0_op"
    if kind == "upsamplers":  # where a model without attention in its first block has it
        return f"output_blocks_{block + 2}_{2 if block else 1}_conv"
    first = f"input_blocks_{block + 1 + int(index)}" if side == "down" else ""
    first = first or f"output_blocks_{block + int(index)}"
    if kind == "attentions":
        return f"{first}_1_{leaf}"
    return f"{first}_0_{LEAVES.get(leaf, leaf)}"


def places(state: dict[str, Tensor], model: Original) -> dict[str, float]:
    """The layers that it patches, by the names of the original model, and their strengths."""
    modules = {name.replace(".", "_"): name for name, _ in ldm_layers(model)}
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        stem, _, part = key.partition(".")
        if (name := translated(stem)) in modules:
            parts.setdefault(modules[name], {})[part] = value
    found = {}
    for name, values in parts.items():
        for down, up in (
            ("lora_down.weight", "lora_up.weight"),
            ("lora_A.weight", "lora_B.weight"),
        ):
            if down in values and up in values:
                alpha = values.get("alpha")
                found[name] = 1.0 if alpha is None else float(alpha) / len(values[down])
    return found


def times(steps: int, sampler: str) -> list[float]:
    """Schedule type SGM Uniform: LCM has its 50 solver steps, the others take any time."""
    if sampler == "LCM":
        return [float(time) for time in comfyui.times(steps, "lcm")]
    return [999 * (1 - i / steps) for i in range(steps)]


def family(header: dict[str, str]) -> str:
    """What it sorts a LoRA under."""
    if header.get("ss_base_model_version", "").startswith("sdxl_"):
        return "SDXL"
    return "SD2" if header.get("ss_v2") == "True" else "SD1" if header else "Unknown"


def prompts(files: Sequence[tuple[str, dict[str, str]]]) -> dict[str, str | None]:
    """What a prompt finds, of files by name and header: a name in use twice as `ss_output_name`
    stands for the file of that name alone.
    """
    found: dict[str, str | None] = {}
    taken: dict[str, Any] = {}
    names = {name for name, _ in files}
    for name, header in files:
        alias = header.get("ss_output_name", name)
        if alias in taken:
            found[alias] = alias if alias in names else None
        taken[name] = taken[alias] = found[name] = name
        found.setdefault(alias, name)
    return found
