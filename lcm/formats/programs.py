"""What a program takes of an adapter file as it stands: stock diffusers, by loading it for real
unless it is as the official ones are; the web UIs, by their name maps.

A layer that a program does not recognise is left out without an error, and one whose alpha it does
not find gets the scale 1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from lcm.adapter.files import opened
from lcm.adapter.kohya import stem, underscored
from lcm.adapter.names import LORA_TARGETS
from lcm.adapter.prefixes import PREFIXES, UNDERSCORED
from lcm.formats.configuration import METADATA_KEY
from lcm.formats.factors import Adapter, Factors
from lcm.formats.keys import Slot
from lcm.formats.taken import Taken, taken

# --- stock diffusers ------------------------------------------------------------------------------

Facts = tuple[str, tuple[int, ...]]
"""The type of a tensor's numbers, as safetensors calls it, and its shape."""
OFFICIAL = re.compile(
    rf"(?:down_blocks|mid_block|up_blocks)\.(?:.*\.)?(?:{'|'.join(map(re.escape, LORA_TARGETS))})"
)
"""The layers of the official LCM-LoRAs."""
TYPES = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32"}


def facts_of(file: Path | dict[str, Tensor]) -> dict[str, Facts]:
    """What the header of a file says of its tensors, or that of the file that these would be."""
    if isinstance(file, dict):
        return {name: (TYPES.get(t.dtype, ""), tuple(t.shape)) for name, t in file.items()}
    with opened(file) as safe:
        slices = {name: safe.get_slice(name) for name in safe.keys()}  # noqa: SIM118
    return {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}


def is_official(adapter: Adapter, file: Path | dict[str, Tensor], layout: str) -> bool:
    """Whether the tensors of a file are as those of the official LCM-LoRAs and of what this toolkit
    trains: their layers of a U-Net and nothing else, of one rank and one alpha, spelt as in this
    layout alone.
    """
    layers, facts = adapter.component("unet"), facts_of(file)
    expected = {
        name: fact
        for layer, factors in layers.items()
        for name, fact in spelt(layer, factors, layout).items()
    }
    return (
        0 < len(expected) == len(facts)
        and len({(f.rank, f.alpha) for f in layers.values()}) == 1
        and all(map(OFFICIAL.fullmatch, layers))
        and all(facts.get(name, ("", ()))[1] == shape for name, shape in expected.items())
        and all(kind in TYPES.values() for kind, _ in facts.values())
    )


def spelt(layer: str, factors: Factors, layout: str) -> dict[str, tuple[int, ...]]:
    """The shapes of a layer's tensors in a file, by name."""
    down = tuple(factors.down.shape)
    up = (len(factors.up), factors.rank, *(1,) * (len(down) - 2))
    if layout == "diffusers":
        return {f"unet.{layer}.lora_A.weight": down, f"unet.{layer}.lora_B.weight": up}
    name = stem("unet", layer)
    return {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": ()}


def diffusers_takes(adapter: Adapter, file: Path | dict[str, Tensor], written: str = "") -> Taken:
    """What `load_lora_weights` of the stock pipeline takes of a file, or of the tensors of one.

    Of an official one it takes all, and so it does of one that was `written` here in the layout
    "diffusers", with the configuration that goes with its tensors; any other is loaded for real.
    """
    layout = written or "kohya"
    has_own = METADATA_KEY in adapter.header  # which diffusers refuses in a kohya file
    if has_own == (layout == "diffusers") and is_official(adapter, file, layout):
        return Taken(len(adapter.component("unet")), 0)
    from lcm.formats.stock_loader import loaded_by_diffusers  # slow to import

    return loaded_by_diffusers(adapter, file)


# --- web UIs --------------------------------------------------------------------------------------


def whole_layers(slots: list[Slot]) -> Iterator[tuple[str, Slot, bool]]:
    """Layer, one of its matrices and whether alpha stands beside it, of U-Net layers whose two
    matrices have one spelling.
    """
    pairs: dict[tuple[str, str, str], set[str]] = {}
    for slot in slots:
        pairs.setdefault((slot.module, slot.stem, slot.style), set()).add(slot.part)
    alphas = {stem for (_, stem, style), _ in pairs.items() if style == "alpha"}
    for slot in slots:
        key = (slot.module, slot.stem, slot.style)
        if slot.part == "down" and "up" in pairs[key] and slot.module.startswith("unet."):
            yield slot.module.removeprefix("unet."), slot, slot.stem in alphas


def comfyui_names(name: str) -> set[str]:
    """The names by which ComfyUI knows a layer that diffusers calls `name`, those of the original
    model aside.
    """
    if name.startswith("add_embedding."):
        return set()
    older = re.sub(r"\.to_out\.0$", ".to_out", name.replace(".to_", ".processor.to_"))
    known = [prefix for prefix, entry in PREFIXES.items() if entry.comfyui]
    return {
        older,
        *(prefix + (underscored(name) if prefix in UNDERSCORED else older) for prefix in known),
    }


def in_comfyui(name: str, slot: Slot) -> bool:
    if slot.layout in ("kohya with ldm blocks", "ldm"):
        return True
    return slot.stem in comfyui_names(name)


def in_a1111(adapter: Adapter) -> Callable[[str, Slot], bool]:
    """A1111 cuts at the first dot, and puts the first upsampler of SDXL where SD 1.x has it."""
    has_attention = adapter.text_width == 2048 or any(
        name.startswith("unet.up_blocks.0.attentions") for name in adapter.modules
    )

    def recognised(name: str, slot: Slot) -> bool:
        if slot.layout == "kohya with ldm blocks":
            return True
        misplaced = has_attention and name == "up_blocks.0.upsamplers.0.conv"
        return slot.layout == "kohya" and not name.startswith("add_embedding.") and not misplaced

    return recognised


def ui_takes(adapter: Adapter, recognised: Callable[[str, Slot], bool]) -> Taken:
    """The scale is alpha / rank, or 1 where no alpha stands beside the matrices: headers are not
    read.
    """
    layers = adapter.component("unet")
    found = {
        name: has_alpha
        for name, slot, has_alpha in whole_layers(adapter.slots)
        if recognised(name, slot)
    }
    return taken(
        adapter,
        {name: layers[name].scale if has else 1.0 for name, has in found.items() if name in layers},
    )


def what_takes(adapter: Adapter, file: Path) -> dict[str, Taken]:
    """Program -> what it takes of the U-Net's layers in `file`, from which `adapter` was read."""
    return {
        "diffusers load_lora_weights": diffusers_takes(adapter, file),
        "ComfyUI": ui_takes(adapter, in_comfyui),
        "A1111": ui_takes(adapter, in_a1111(adapter)),
    }
