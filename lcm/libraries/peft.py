"""PEFT."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from typing import Any

from peft.tuners.lora import LoraLayer
from torch import Tensor

TRAINS = "inference_mode" not in inspect.signature(LoraLayer.set_adapter).parameters


# peft >= 0.18: layer.set_adapter(names, inference_mode=True)
def activate(layer: Any, adapter_names: Sequence[str]) -> None:
    """Makes these the active adapters of a layer, none of whose matrices is to be trained."""
    if not TRAINS:
        layer.set_adapter(list(adapter_names), inference_mode=True)
        return
    layer.set_adapter(list(adapter_names))
    for part in layer.adapter_layer_names:
        getattr(layer, part).requires_grad_(False)


# peft >= 0.18: nothing
def keep_dtype(saved: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Gives matrices that were swapped, each with what it was before, the precision that they had,
    where they have got that of the file.
    """
    for matrix, before in saved:
        if matrix.dtype != before.dtype:
            matrix.data = matrix.data.to(before.dtype)
