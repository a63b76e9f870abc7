"""A style that stands beside the adapters of this toolkit, and the rows of calls of a network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lcm.adapter.export import kohya_state_dict
from lcm.adapter.lora import add_lora
from tests.support.worlds import build_sd, randomize_lora


@pytest.fixture(scope="session")
def style(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A style LoRA of U-Net and text encoder, as kohya's trainer writes it; no recipe."""
    pipe = build_sd()
    add_lora(pipe.unet, 2, targets=["to_q", "to_v"])
    randomize_lora(pipe.unet)
    state, generator = kohya_state_dict(pipe.unet, torch.float32), torch.Generator().manual_seed(2)
    for layer in range(2):
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            name = f"lora_te_text_model_encoder_layers_{layer}_self_attn_{part}"
            state[f"{name}.lora_down.weight"] = 0.3 * torch.randn(2, 16, generator=generator)
            state[f"{name}.lora_up.weight"] = 0.3 * torch.randn(16, 2, generator=generator)
            state[f"{name}.alpha"] = torch.tensor(2.0)
    path = tmp_path_factory.mktemp("style") / "pixel.art.safetensors"
    save_file(state, path)
    return path


@pytest.fixture
def rows() -> list[int]:
    return []
