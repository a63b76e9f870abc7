"""What a program takes of an adapter file as it stands: stock diffusers, by loading it for real;
the web UIs, by their name maps.

A layer that a program does not recognise is left out without an error, and one whose alpha it does
not find gets the scale 1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.loaders.peft import PeftAdapterMixin
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from lcm.adapter.kohya import underscored
from lcm.adapter.prefixes import PREFIXES, UNDERSCORED
from lcm.formats.factors import Adapter, Factors
from lcm.formats.keys import Slot
from lcm.libraries.diffusers import named_as_safetensors
from lcm.system.console import silenced

ATTACHED = "verified"
"""A name of an adapter. Under "default" diffusers would also read keys with `.default.`, as it does
under no other.
"""


@dataclass(frozen=True)
class Taken:
    """What a program takes of the U-Net's adapted layers: how many, how many of these with another
    strength, the first left out.
    """

    count: int
    misscaled: int
    missing: str = ""
    error: str = ""


def taken(adapter: Adapter, scales: dict[str, float]) -> Taken:
    """Compares the scales that a program gives to layers with what the file means."""
    layers = adapter.component("unet")
    found = {name: scale for name, scale in scales.items() if name in layers}
    missing = [name for name in layers if name not in found]
    wrong = sum(
        abs(scale - layers[name].scale) > 1e-3 * abs(layers[name].scale)
        for name, scale in found.items()
    )
    return Taken(len(found), wrong, missing[0] if missing else "")


# --- stock diffusers ------------------------------------------------------------------------------


class Skeleton(PeftAdapterMixin, nn.Module):
    """A module tree with the adapted layers and nothing else, which takes no memory: all that the
    stock loader looks at.
    """

    def __init__(self, layers: dict[str, Factors]) -> None:
        super().__init__()
        for name, factors in layers.items():
            *path, leaf = name.split(".")
            parent: nn.Module = self
            for part in path:
                if not hasattr(parent, part):
                    parent.add_module(part, nn.Module())
                parent = getattr(parent, part)
            parent.add_module(leaf, layer(factors))


def layer(factors: Factors) -> nn.Module:
    """What the factors adapt, with one number in the place of all its weights."""
    outputs, (_, inputs, *kernel) = len(factors.up), factors.down.shape
    with torch.device("meta"):
        shell = (
            nn.Conv2d(inputs, outputs, kernel[0], bias=False)
            if kernel
            else nn.Linear(inputs, outputs, bias=False)
        )
    shell.weight = nn.Parameter(
        torch.zeros((), dtype=factors.up.dtype).expand(shell.weight.shape), requires_grad=False
    )
    return shell


def diffusers_takes(adapter: Adapter, file: Path | dict[str, Tensor]) -> Taken:
    """What `load_lora_weights` of the stock pipeline takes of a file, or of the tensors of one, on
    a skeleton of the U-Net.
    """
    if isinstance(file, Path):
        with named_as_safetensors(file) as named:
            return stock_takes(adapter, str(named.parent), weight_name=named.name)
    return stock_takes(adapter, dict(file))


def stock_takes(adapter: Adapter, source: str | dict[str, Tensor], **options: str) -> Taken:
    """What comes of the first argument of `lora_state_dict`, and its other `options`."""
    skeleton = Skeleton(adapter.component("unet"))
    pipeline = StableDiffusionXLPipeline if adapter.text_width == 2048 else StableDiffusionPipeline
    config = SimpleNamespace(layers_per_block=2)
    try:
        state, alphas, metadata = pipeline.lora_state_dict(
            source,
            unet_config=config,
            return_lora_metadata=True,
            use_safetensors=True,
            **options,
        )
        with silenced():
            pipeline.load_lora_into_unet(
                state,
                network_alphas=alphas,
                unet=skeleton,
                adapter_name=ATTACHED,
                metadata=metadata,
                low_cpu_mem_usage=True,
            )
    except Exception as error:  # whatever a user would see
        return Taken(0, 0, error=" ".join(str(error).split())[:160])
    loaded = {
        name: m for name, m in skeleton.named_modules() if isinstance(m, LoraLayer) and is_filled(m)
    }
    return taken(adapter, {name: m.scaling[ATTACHED] for name, m in loaded.items()})


def is_filled(module: LoraLayer) -> bool:
    """Whether both matrices came from the file: what did not is left without memory."""
    return not any(part[ATTACHED].weight.is_meta for part in (module.lora_A, module.lora_B))


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
