"""Adapters in the layout of the official LCM-LoRAs, which loads everywhere."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from lcm.adapter.files import AdapterError, save_tensors
from lcm.adapter.kohya import layer_tensors, stem
from lcm.formats.configuration import METADATA_KEY
from lcm.formats.factors import Adapter, uniform


def check_text_encoders(adapter: Adapter) -> None:
    """Raises AdapterError for attention without its last layer, by which diffusers recognises
    kohya's text encoders.
    """
    for component in ("text_encoder", "text_encoder_2"):
        attention = [name for name in adapter.component(component) if ".self_attn." in name]
        if attention and not any(name.endswith(".out_proj") for name in attention):
            raise AdapterError(
                f"{component}.{attention[0]} would be left out by diffusers, which knows the text "
                "encoders of kohya files by their out_proj layers, and here are none; they can be "
                "written in the layout of diffusers alone"
            )


def encoded(adapter: Adapter) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of the file, made `uniform`. diffusers refuses its own metadata in such
    a file: it is left out. Raises AdapterError as `check_text_encoders`.
    """
    check_text_encoders(adapter)
    adapter = uniform(adapter)
    is_alone = adapter.text_width != 2048 and not adapter.component("text_encoder_2")
    state: dict[str, Tensor] = {}
    for module, factors in adapter.modules.items():
        component, _, layer = module.partition(".")
        name = stem(component, layer, is_alone)
        state |= layer_tensors(name, factors.down, factors.up, factors.alpha)
    return state, {key: value for key, value in adapter.header.items() if key != METADATA_KEY}


def write(adapter: Adapter, path: Path) -> None:
    """Writes one file."""
    state, header = encoded(adapter)
    save_tensors(state, path, metadata=header)
