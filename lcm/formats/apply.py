"""Adapters on the weights of a pipeline: added for good, and the proof that the stock loader does
the same.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from lcm.adapter.export import probe
from lcm.adapter.files import AdapterError, AdapterFile
from lcm.adapter.lora import adaptable, lora_modules
from lcm.adapter.names import COMPONENTS
from lcm.formats.advice import way_on
from lcm.formats.factors import Adapter, Factors
from lcm.formats.misfit import other_kind, width_of_config
from lcm.formats.stock_loader import ATTACHED, is_filled
from lcm.libraries.diffusers import check_text_encoders
from lcm.system.console import silenced
from lcm.system.device import without_tf32


def own_name(model: nn.Module, layer: str) -> str:
    """The layer's name in this model: newer text encoders leave the first part out."""
    return layer if hasattr(model, "text_model") else layer.removeprefix("text_model.")


def place_of(pipe: Any, module: str) -> tuple[str, str]:
    """Component and layer of a "<component>.<layer>" as this pipeline names the layer."""
    component, _, layer = module.partition(".")
    model = adaptable(pipe).get(component)
    return component, layer if model is None else own_name(model, layer)


def layers_of(model: nn.Module) -> dict[str, Any]:
    """The linear and conv layers of a network by name, under an adapter where they have one."""
    found = {}
    for name, module in model.named_modules():
        if name.endswith(".base_layer") or ".lora_" in name:
            continue
        if isinstance(module, LoraLayer):
            found[name] = module.get_base_layer()
        elif hasattr(module, "in_features") or isinstance(module, nn.Conv2d):
            found[name] = module
    return found


def has_place(pipe: Any, module: str) -> bool:
    component, layer = place_of(pipe, module)
    model = adaptable(pipe).get(component)
    return model is not None and layer in layers_of(model)


def shape_of(layer: Any) -> tuple[int, int]:
    """Rows and columns of a layer's weight, which may be packed into fewer bits."""
    if hasattr(layer, "in_features"):
        return layer.out_features, layer.in_features
    return len(layer.weight), layer.weight[0].numel()


def targets(pipe: Any, adapter: Adapter) -> Iterator[tuple[Any, Factors]]:
    """Layers of the pipeline with their factors. Raises AdapterError for one that it does not have,
    or has in another shape.
    """
    trees = {name: layers_of(model) for name, model in adaptable(pipe).items()}
    for module, factors in adapter.modules.items():
        component, layer = place_of(pipe, module)
        found = trees.get(component, {}).get(layer)
        if found is None:
            cause = f"{misfit(pipe, adapter)}{elsewhere(pipe, adapter)}"
            raise AdapterError(f"this base has no layer {module}: {cause}")
        shape = (len(factors.up), factors.down[0].numel())
        if shape_of(found) != shape:
            raise AdapterError(
                f"{module} of this base is {list(shape_of(found))}, the adapter's is "
                f"{list(shape)}: {misfit(pipe, adapter)}"
            )
        yield found, factors


def misfit(pipe: Any, adapter: Adapter) -> str:
    """For what the adapter was made instead, as far as the widths of the text say it."""
    return other_kind(adapter.text_width, width_of_config(adaptable(pipe)["unet"].config))


def elsewhere(pipe: Any, adapter: Adapter) -> str:
    """How many layers have no place, where most have: models are pruned."""
    names = layers_of(adaptable(pipe)["unet"])
    theirs = adapter.component("unet")
    lacking = sum(name not in names for name in theirs)
    if lacking in (0, len(theirs)):
        return ""
    return (
        f" ({lacking} of its {len(theirs)} layers of the U-Net have no place here; a model of the "
        "same family may have more or fewer blocks, as SDXL has more than SSD-1B)"
    )


def adapted_kinds(pipe: Any, adapter: Adapter) -> tuple[list[str], list[str]]:
    """The U-Net's layers that the adapter has, and all that it could have."""
    return list(adapter.component("unet")), list(layers_of(adaptable(pipe)["unet"]))


@torch.no_grad()
def add_deltas(pipe: Any, adapter: Adapter, weight: float = 1.0) -> None:
    """W + weight * delta for every layer, in float32, then in W's precision. All layers are checked
    before the first is changed.
    """
    for layer, factors in list(targets(pipe, adapter)):
        delta = weight * factors.delta().reshape(layer.weight.shape)
        layer.weight.copy_(layer.weight.float() + delta.to(layer.weight.device))


@dataclass(frozen=True)
class Verdict:
    """What the stock loader made of a file on a base: layers by component, those with a wrong
    scale, and the U-Net's output.

    `effect` is the adapter's largest change of the output relative to the output's range, `error`
    the largest difference between the stock loader's output and that of W + alpha / rank up down,
    relative to the effect.
    """

    loaded: dict[str, int]
    misscaled: list[str]
    effect: float
    error: float


def scales(pipe: Any) -> dict[str, float]:
    """The scale of every layer that the stock loader has adapted, by "<component>.<layer>"."""
    found = {}
    for component, model in adaptable(pipe).items():
        for name, layer in lora_modules(model).items():
            if ATTACHED in layer.scaling and is_filled(layer):
                found[f"{component}.{name}"] = layer.scaling[ATTACHED]
    return found


@torch.no_grad()
@without_tf32()
def verify(pipe: Any, adapter: Adapter, file: Path) -> Verdict:
    """Attaches `file` by the stock loader alone, and compares with the weights changed by hand. The
    pipeline is used up.

    Raises AdapterError when the base lacks a layer, or the stock loader refuses the file.
    """
    list(targets(pipe, adapter))
    check_text_encoders(adapter.modules)
    inputs = probe(pipe.unet)
    base = pipe.unet(**inputs).sample
    try:
        with silenced():
            pipe.load_lora_weights(
                str(file.parent),
                weight_name=file.name,
                adapter_name=ATTACHED,
                use_safetensors=True,
            )
    except Exception as refusal:  # whatever a user would see
        reason = textwrap.shorten(str(refusal), 300, placeholder=" ...")
        way = way_on(AdapterFile.read(file))
        raise AdapterError(f"diffusers refuses {file}: {reason}; {way}") from refusal
    adapted = scales(pipe)
    wrong = []
    for module, factors in adapter.modules.items():
        name = ".".join(place_of(pipe, module))
        if name in adapted and abs(adapted[name] / factors.scale - 1) > 1e-3:
            wrong.append(module)
    loaded = {
        component: sum(name.startswith(f"{component}.") for name in adapted)
        for component in COMPONENTS
        if adapter.component(component)
    }
    attached = pipe.unet(**inputs).sample
    pipe.unload_lora_weights()
    add_deltas(pipe, adapter)
    reference = pipe.unet(**inputs).sample
    effect = (reference - base).abs().max().item()
    error = (attached - reference).abs().max().item()
    return Verdict(loaded, wrong, effect / base.abs().max().item(), error / max(effect, 1e-12))
