"""Style LoRAs that become part of a base model: what they add is summed into its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from lcm.adapter.files import AdapterFile
from lcm.adapter.locate import locate
from lcm.adapter.lora import adaptable
from lcm.adapter.names import path_and_weight
from lcm.adapter.recipe import RECIPE_KEY
from lcm.formats.advice import check_sound
from lcm.formats.apply import add_deltas
from lcm.formats.read import read_adapter, understand
from lcm.system.public_names import public_name


@dataclass(frozen=True)
class Style:
    """A LoRA (file, folder or hub id) and the weight that it acts with."""

    path: str
    weight: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Style:
        """PATH or PATH=WEIGHT. Raises ValueError for a weight that is none."""
        return cls(*path_and_weight(text, "teacher_lora"))

    def facts(self) -> dict[str, Any]:
        """What a recipe says of it: the name without its folder, the weight."""
        return {"file": public_name(self.path), "weight": self.weight}

    def file(self) -> Path:
        """The file behind the path. Raises FileNotFoundError that says what was tried."""
        try:
            return locate(self.path)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"teacher_lora: {error}") from error


def identity_of_styles(styles: Sequence[Style]) -> list[list[Any]]:
    """The content of every file, a SHA-256, and its weight, as JSON has it."""
    return [
        [hashlib.sha256(style.file().read_bytes()).hexdigest(), style.weight] for style in styles
    ]


def fold_styles(pipe: Any, styles: Sequence[Style]) -> None:
    """Adds weight * alpha / rank * B A of every LoRA to the weights that it adapts, in U-Net and
    text encoders.

    Summed in float32 and rounded once to the precision of the pipeline, which has no adapters
    before nor afterwards. Raises FileNotFoundError, or ValueError for a file that does not fit, or
    of which not everything found its place.
    """
    if not styles:
        return
    models = adaptable(pipe)
    dtypes = {name: model.dtype for name, model in models.items()}
    for model in models.values():
        nn.Module.float(model)  # the libraries' own methods warn of what is asked for here
    for style in styles:
        fold(pipe, style)
    for name, model in models.items():
        nn.Module.to(model, dtypes[name]).requires_grad_(False).eval()


def fold(pipe: Any, style: Style) -> None:
    """Adds one LoRA to float32 weights."""
    file = style.file()
    try:
        found = AdapterFile.read(file)
        check_is_style(file, found.header)
        adapter = understand(found)
        check_sound(found, adapter.problems)
        add_deltas(pipe, adapter, style.weight)
    except ValueError as error:
        raise ValueError(f"teacher_lora {style.path}: {error}") from error


def check_is_style(file: Path, header: Mapping[str, str]) -> None:
    """Raises ValueError for the adapter of a few-step run."""
    if RECIPE_KEY in header:
        raise ValueError(
            f"{file} is a few-step adapter of this toolkit, and a teacher with it would be no "
            "teacher; pass a style's LoRA, or go on training this one with --init_adapter"
        )


def check_unet_alone(styles: Sequence[Style]) -> None:
    """Raises ValueError for a LoRA of text encoders too, where a U-Net is all that will be
    exported.
    """
    for style in styles:
        adapter = read_adapter(style.file())
        count = len(adapter.modules) - len(adapter.component("unet"))
        if count:
            raise ValueError(
                f"teacher_lora: {style.path} also adapts {count} layers of text encoders, which "
                "the U-Net of --full_finetune cannot carry; train an adapter instead, or pass a "
                "LoRA of the U-Net alone"
            )
