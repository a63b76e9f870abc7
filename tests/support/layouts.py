"""What adapter files must be read as: the deltas of the U-Net that wrote them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor

from lcm.formats.factors import Adapter
from tests.support.worlds import build_unet

MIXED = {
    "rank_pattern": {"to_k": 3, "conv1": 6, "ff.net.2": 2},
    "alpha_pattern": {"to_v": 1.0, "conv2": 9.0},
}


def truth(unet: Any) -> dict[str, Tensor]:
    """The adapter's share of every weight, as PEFT computes it."""
    layers = {
        name: module for name, module in unet.named_modules() if isinstance(module, LoraLayer)
    }
    return {
        f"unet.{name}": layer.get_delta_weight("default").detach() for name, layer in layers.items()
    }


def equal_deltas(adapter: Adapter, expected: dict[str, Tensor]) -> None:
    assert adapter.problems == []
    assert adapter.modules.keys() == expected.keys()
    for name, factors in adapter.modules.items():
        assert torch.allclose(factors.delta(), expected[name], rtol=1e-5, atol=1e-6), name


def peft_folder(unet: Any, folder: Path) -> None:
    config = copy.deepcopy(unet.peft_config["default"])
    wrapped = get_peft_model(build_unet(), config)
    wrapped.base_model.model.load_state_dict(unet.state_dict())
    wrapped.save_pretrained(folder)
