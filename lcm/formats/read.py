"""Reading adapter files: of every layout, mixed or damaged. Only safetensors are opened, since
pickles can run code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lcm.adapter.files import AdapterError, AdapterFile
from lcm.adapter.locate import find
from lcm.adapter.recipe import RECIPE_KEY, Recipe
from lcm.formats.configuration import configurations, configured_alpha
from lcm.formats.drop import without
from lcm.formats.factors import Adapter, Factors
from lcm.formats.findings import (
    alpha_problem,
    in_half,
    largest_of,
    matrix_problem,
    number_problem,
    strength_problems,
    strength_warnings,
)
from lcm.formats.keys import Slot, foreign, parse
from lcm.formats.kinds import ADAPTER, identify

# --- matrices into layers -------------------------------------------------------------------------


@dataclass
class Parts:
    """The tensors of one layer that have come so far, and the keys they came from."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    largest: dict[str, float] = field(default_factory=dict)

    def put(self, key: str, slot: Slot, tensor: Tensor) -> str | None:
        """What is wrong, if the tensor cannot be taken. The same values twice are once."""
        if slot.part in self.tensors and not same(self.tensors[slot.part], tensor):
            return (
                f"{key} and {self.keys[slot.part]} are the same tensor of the same layer with "
                "different values; leave one out"
            )
        self.tensors[slot.part], self.keys[slot.part] = tensor, key
        return None


def same(one: Tensor, other: Tensor) -> bool:
    return one.numel() == other.numel() and torch.equal(
        one.flatten().double(), other.flatten().double()
    )


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


@dataclass
class Collected:
    """Parts by layer, the slots that were recognised, the tensors that were not with what they are,
    those whose place another may take, and what is wrong: `played` are the problems that diffusers
    has none with.
    """

    layers: dict[str, Parts] = field(default_factory=dict)
    slots: list[Slot] = field(default_factory=list)
    unread: dict[str, str] = field(default_factory=dict)
    unusable: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    played: list[str] = field(default_factory=list)

    def largest(self) -> dict[str, float]:
        """What no product of an element of `up` and one of `down` is above, by layer."""
        return {
            name: parts.largest["down"] * parts.largest["up"]
            for name, parts in self.layers.items()
            if {"down", "up"} <= parts.largest.keys()
        }

    def skip(self, key: str, what: str) -> None:
        self.unread[key] = what
        self.problems.append(f"{key} is dropped: {what}")
        if (kind := foreign(key)) and kind.is_played:
            self.played.append(self.problems[-1])

    def look_at_recipe(self, header: Mapping[str, str], path: Path) -> None:
        try:
            Recipe.from_header(header, path)
        except ValueError as error:
            self.problems.append(str(error))
            self.unusable.append(RECIPE_KEY)

    def take(self, key: str, tensor: Tensor, layers_per_block: int) -> None:
        try:
            slot = parse(key, layers_per_block)
        except ValueError as error:
            self.skip(key, str(error))
            return
        wrong = alpha_problem(tensor) if slot.part == "alpha" else matrix_problem(tensor)
        largest = 0.0
        if slot.part != "alpha" and not wrong:
            tensor = in_half(tensor)
            largest = largest_of(tensor)
            wrong = number_problem(largest)
        if wrong:
            self.problems.append(f"{key} {wrong}")
            self.unusable += [key] if slot.part == "alpha" else []
            return
        self.slots.append(slot)
        parts = self.layers.setdefault(slot.module, Parts())
        if wrong := parts.put(key, slot, tensor):
            self.problems.append(wrong)
            self.unusable.append(key)
            return
        parts.largest[slot.part] = largest


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
    path: str | Path,
    alpha: float | None = None,
    layers_per_block: int | None = None,
    drop: Sequence[str] = (),
) -> Adapter:
    """Every layout, mixed and half converted files too, from a file, a folder or a hub id; see
    `understand`. Raises FileNotFoundError for no file, AdapterError for an unreadable one.
    """
    return understand(AdapterFile.read(find(path)), alpha, layers_per_block, drop)


def understand(
    file: AdapterFile,
    alpha: float | None = None,
    layers_per_block: int | None = None,
    drop: Sequence[str] = (),
) -> Adapter:
    """What a file means: its layers, and all that is wrong with it, in `problems`, for which
    `checked()` raises.

    `alpha` is that of layers which state none; without it, alpha = rank is assumed and noted.
    `layers_per_block` is that of the U-Net, for files with ldm block numbers; without it, 2 is
    assumed and noted. `drop` are names or patterns of tensors to leave out. Raises AdapterError
    that says what the file is where it holds no layer of Stable Diffusion, ValueError for an alpha
    where all have their own, or for a pattern that no tensor has.
    """
    tensors, header, notes = without(file, drop)
    # problems are collected, not raised: lcm inspect shows all of them, and repair what is left
    found = Collected()
    for key, tensor in tensors.items():
        found.take(key, tensor, layers_per_block or 2)
    if found.problems and not found.layers:
        raise AdapterError(nothing_usable(file, found.problems))
    found.look_at_recipe(header, file.path)
    configs = configurations(file.path, header)
    if any(config.get("use_dora") for config in configs.values()) and not found.played:
        found.problems.append(
            f"{file.path}: its configuration says use_dora, which a plain LoRA cannot express"
        )
    modules, assumed = build(found, configs, alpha)
    problems = [*found.problems, *alpha_problems(file, modules, assumed, alpha)]
    if not modules and not problems:
        problems.append("the file holds no tensors; export the adapter again")
    notes += assumptions(modules, assumed, alpha, header)
    if layers_per_block is None and any("ldm" in slot.layout for slot in found.slots):
        notes.append(
            "blocks are numbered as in the original model: read with 2 layers a block; --base, "
            "where a verb has it, says how many"
        )
    return Adapter(
        modules,
        header,
        found.slots,
        notes,
        [*problems, *strength_problems(modules, found.largest())],
        strength_warnings(modules),
        found.played,
        found.unread,
        found.unusable,
    )


def nothing_usable(file: AdapterFile, problems: list[str]) -> str:
    """The error for a file without a layer that could be adapted."""
    start = f"{file.path} holds no LoRA for Stable Diffusion"
    if kind := identify(file):
        return f"{start}: it is {kind.what}; {kind.use}"
    if any(ADAPTER.search(name) for name in file.tensors):
        return (
            f"{start}: it is an adapter of another network ({problems[0]}); use it with the model "
            "that it was made for"
        )
    return f"{start}: of its {len(file.tensors)} tensors none can be used. {problems[0]}"


def build(
    found: Collected, configs: dict[str, dict[str, Any]], alpha: float | None
) -> tuple[dict[str, Factors], list[str]]:
    """Factors by layer, and the layers whose alpha no tensor and no configuration states. What
    keeps parts from being a layer is added to the problems.
    """
    modules, assumed = {}, []
    for module, parts in found.layers.items():
        if wrong := pair_problem(parts):
            found.problems.append(wrong)
            continue
        value = stated_alpha(module, parts, configs)
        if value is None:
            assumed.append(module)
            value = float(parts.tensors["down"].shape[0]) if alpha is None else alpha
        modules[module] = paired(parts, value)
    return modules, assumed


def alpha_problems(
    file: AdapterFile, modules: dict[str, Factors], assumed: list[str], alpha: float | None
) -> list[str]:
    """Layers that state no alpha beside others that do. Raises ValueError for an alpha that no
    layer needs.
    """
    if alpha is not None and modules and not assumed:
        raise ValueError(
            f"{file.path} states alpha for all its {len(modules)} layers; leave --alpha out"
        )
    # diffusers gives such layers the alpha of another one, so that guessing would be no better
    if alpha is None and 0 < len(assumed) < len(modules):
        more = f" and {len(assumed) - 1} more" if len(assumed) > 1 else ""
        return [
            f"{assumed[0]}{more} of {len(modules)} layers state no alpha, and the others do; pass "
            "--alpha for them, or restore the file"
        ]
    return []


def assumptions(
    modules: dict[str, Factors], assumed: list[str], alpha: float | None, header: dict[str, str]
) -> list[str]:
    """What was assumed of a file in which no layer says it."""
    if not assumed or alpha is not None or len(assumed) < len(modules):
        return []
    stated = header.get("ss_network_alpha")
    hint = f"; its header says ss_network_alpha {stated}" if stated else ""
    return [
        (
            f"no layer states alpha: taken as the rank, so that the scale is 1{hint} (--alpha "
            "overrides)"
        )
    ]
