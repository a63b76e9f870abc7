"""PEFT's folder: `PeftModel.from_pretrained(unet, folder)` loads it."""

from __future__ import annotations

import json
from pathlib import Path

from lcm.adapter.files import save_tensors
from lcm.adapter.names import PEFT_CONFIG, PEFT_WEIGHTS
from lcm.formats.configuration import METADATA_KEY
from lcm.formats.diffusers import peft_config
from lcm.formats.factors import Adapter
from lcm.system.paths import write_text


def write(adapter: Adapter, path: Path) -> None:
    """Writes a folder with weights and configuration. Raises ValueError for text encoders: such a
    folder is about one model.
    """
    layers = adapter.component("unet")
    if len(layers) < len(adapter.modules):
        raise ValueError(
            "a PEFT folder holds the adapter of one model, and this one has text encoder layers "
            "too; use --to kohya"
        )
    state = {}
    for name, factors in layers.items():
        state[f"base_model.model.{name}.lora_A.weight"] = factors.down.contiguous()
        state[f"base_model.model.{name}.lora_B.weight"] = factors.up.contiguous()
    header = {key: value for key, value in adapter.header.items() if key != METADATA_KEY}
    path.mkdir()
    save_tensors(state, path / PEFT_WEIGHTS, metadata={"format": "pt", **header})
    write_text(path / PEFT_CONFIG, json.dumps(peft_config(layers), indent=2, sort_keys=True))
