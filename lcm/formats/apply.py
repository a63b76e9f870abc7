"""Adapters on the weights of a pipeline: added for good, and the proof that the stock loader does
the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lcm.adapter.export import probe
from lcm.adapter.files import AdapterError
from lcm.adapter.lora import adaptable, lora_modules
from lcm.adapter.names import COMPONENTS
from lcm.formats.factors import Adapter, Factors
from lcm.formats.programs import ATTACHED, is_filled
from lcm.system.console import silenced


def own_name(model: nn.Module, layer: str) -> str:
    """The layer's name in this model: newer text encoders leave the first part out."""
    return layer if hasattr(model, "text_model") else layer.removeprefix("text_model.")


def targets(pipe: Any, adapter: Adapter) -> Iterator[tuple[Any, Factors]]:
    """Layers of the pipeline with their factors. Raises AdapterError for one that it does not have,
    or has in another shape.
    """
    models = adaptable(pipe)
    trees = {name: dict(model.named_modules()) for name, model in models.items()}
    for module, factors in adapter.modules.items():
        component, _, layer = module.partition(".")
        name = own_name(models[component], layer) if component in models else layer
        found = trees.get(component, {}).get(name)
        if found is None:
            raise AdapterError(
                f"this base has no layer {module}: the adapter was made for another kind of model"
            )
        shape = (len(factors.up), factors.down[0].numel())
        if tuple(found.weight.flatten(1).shape) != shape:
            raise AdapterError(
                f"{module} of this base is {list(found.weight.shape)}, the adapter's is "
                f"{list(shape)}: made for another model"
            )
        yield found, factors


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
def verify(pipe: Any, adapter: Adapter, file: Path) -> Verdict:
    """Attaches `file` by the stock loader alone, and compares with the weights changed by hand. The
    pipeline is used up.

    Raises AdapterError when the base lacks a layer, or the stock loader refuses the file.
    """
    list(targets(pipe, adapter))
    inputs = probe(pipe.unet)
    base = pipe.unet(**inputs).sample
    try:
        with silenced():
            pipe.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name=ATTACHED)
    except Exception as refusal:  # whatever a user would see
        raise AdapterError(
            f"diffusers refuses {file}: {' '.join(str(refusal).split())[:300]}; lcm repair writes "
            "one it takes"
        ) from refusal
    adapted = scales(pipe)
    models, wrong = adaptable(pipe), []
    for module, factors in adapter.modules.items():
        component, _, layer = module.partition(".")
        name = f"{component}.{own_name(models[component], layer)}"
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
