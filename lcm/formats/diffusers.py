"""diffusers' own layout: names with dots, alpha in the header, where only newer versions of
diffusers read it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from lcm.adapter.files import save_tensors
from lcm.adapter.names import COMPONENTS
from lcm.formats.configuration import METADATA_KEY
from lcm.formats.factors import Adapter, Factors, common


def pattern(name: str) -> str:
    """PEFT's pattern for one layer. Newer text encoders leave the first part of their names out:
    what follows it fits all.
    """
    rest = name.removeprefix("text_model.")
    return f"^{name}" if rest == name else rest


def peft_config(modules: dict[str, Factors]) -> dict[str, Any]:
    """PEFT's configuration of these layers, as JSON has it."""
    from peft import LoraConfig  # slow to import

    rank, alpha = common(modules.values())
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=sorted(name.removeprefix("text_model.") for name in modules),
        rank_pattern={pattern(name): f.rank for name, f in modules.items() if f.rank != rank},
        alpha_pattern={pattern(name): f.alpha for name, f in modules.items() if f.alpha != alpha},
    )
    return {
        key: sorted(value) if isinstance(value, set) else value
        for key, value in config.to_dict().items()
    }


def matrices(adapter: Adapter) -> dict[str, Tensor]:
    state = {}
    for module, factors in adapter.modules.items():
        state[f"{module}.lora_A.weight"] = factors.down.contiguous()
        state[f"{module}.lora_B.weight"] = factors.up.contiguous()
    return state


def write(adapter: Adapter, path: Path) -> None:
    """Writes one file with the configuration in its header."""
    parts = {name: adapter.component(name) for name in COMPONENTS}
    flat = {
        f"{name}.{key}": value
        for name, part in parts.items()
        if part
        for key, value in peft_config(part).items()
    }
    save_tensors(
        matrices(adapter),
        path,
        metadata={**adapter.header, METADATA_KEY: json.dumps(flat, sort_keys=True)},
    )
