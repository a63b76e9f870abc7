"""LoRA adapters on a U-Net: added, found, their parameters exchanged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from lcm.adapter.layers import LAYERS, lower_before_passes
from lcm.adapter.names import COMPONENTS, LORA_TARGETS


def layers_named(unet: Any, targets: tuple[str, ...] | list[str]) -> set[str]:
    """The layers of a U-Net without adapters whose names are or end in one of `targets`: those that
    `add_lora` adapts.

    Raises ValueError for a target that matches no layer, or something else.
    """
    layers: set[str] = set()
    modules = dict(unet.named_modules())  # walking through them is slow
    for target in targets:
        matched = {
            name: module for name, module in modules.items() if f".{name}".endswith(f".{target}")
        }
        others = [
            name
            for name, module in matched.items()
            if not isinstance(module, nn.Linear | nn.Conv2d)
        ]
        if len(others) == len(matched):
            raise ValueError(
                f"lora_target_modules: no linear or conv layer of the U-Net is named {target!r}"
            )
        if others:
            raise ValueError(
                f"lora_target_modules: {target!r} also names {others[0]}, which is no linear or "
                "conv layer; say more"
            )
        layers |= matched.keys()
    return layers


def add_lora(
    unet: Any,
    rank: int,
    alpha: float | None = None,
    targets: tuple[str, ...] | list[str] = LORA_TARGETS,
    dropout: float = 0.0,
) -> list[nn.Parameter]:
    """Freezes `unet`, adds one adapter in float32 and returns its parameters. B starts at zero: no
    effect yet.

    One rank and one alpha (default: the rank) for every layer, since kohya-layout files with mixed
    attention ranks or alphas load wrongly, and silently, in diffusers. Raises ValueError for a
    target as `layers_named` does.
    """
    if rank < 1:
        raise ValueError(f"lora_rank must be a positive integer; got {rank}")
    if alpha is not None and alpha <= 0:
        raise ValueError(
            f"lora_alpha must be positive (the adapter's strength is alpha / rank); got {alpha}"
        )
    layers_named(unet, targets)
    unet.requires_grad_(False)
    config = LoraConfig(
        r=rank,
        lora_alpha=rank if alpha is None else alpha,
        target_modules=list(targets),
        lora_dropout=dropout,
    )
    config._register_custom_module(LAYERS)
    unet.add_adapter(config)
    lower_before_passes(unet)
    parameters = lora_parameters(unet)
    for parameter in parameters:
        parameter.data = parameter.data.float()
    return parameters


def adaptable(pipe: Any) -> dict[str, Any]:
    """The networks of a pipeline that can have adapters, by name, the U-Net first; out of their
    compiled wrappings.
    """
    parts = pipe.components
    found = {name: parts[name] for name in COMPONENTS if parts.get(name) is not None}
    return {name: getattr(model, "_orig_mod", model) for name, model in found.items()}


def lora_parameters(unet: nn.Module) -> list[nn.Parameter]:
    """The adapter's tensors, in module order."""
    return [parameter for name, parameter in unet.named_parameters() if ".lora_" in name]


def lora_modules(unet: nn.Module) -> dict[str, LoraLayer]:
    """Adapted layers by name."""
    return {name: module for name, module in unet.named_modules() if isinstance(module, LoraLayer)}


def base_state(unet: Any) -> dict[str, Tensor]:
    """The tensors of a U-Net without its adapter, if it has one, under the names that they then
    have.
    """
    return {
        name.replace(".base_layer.", "."): value
        for name, value in unet.state_dict().items()
        if ".lora_" not in name
    }


@contextmanager
def swapped(parameters: list[nn.Parameter], values: list[Tensor]) -> Iterator[None]:
    """Other values stand in the network inside the block; pointers are exchanged, nothing is
    copied.
    """
    live = [p.data for p in parameters]
    try:
        for p, value in zip(parameters, values, strict=True):
            p.data = value
        yield
    finally:
        for p, data in zip(parameters, live, strict=True):
            p.data = data
