"""What is known of official files without loading them is what stock diffusers says of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lcm.adapter.files import read_header
from lcm.adapter.lora import layers_named
from lcm.adapter.names import LORA_TARGETS
from lcm.formats.factors import Adapter, Factors
from lcm.formats.programs import diffusers_takes, is_official
from lcm.formats.read import read_adapter
from lcm.formats.stock_loader import loaded_by_diffusers
from lcm.formats.write import LAYOUTS
from tests.support.worlds import build_unet


def adapter_of(unet: Any, rank: int, alpha: float, dtype: torch.dtype) -> Adapter:
    """An adapter of every usual layer."""
    generator = torch.Generator().manual_seed(0)
    modules = {}
    for name in sorted(layers_named(unet, LORA_TARGETS)):
        rows, *columns = unet.get_submodule(name).weight.shape
        down = torch.randn(rank, *columns, generator=generator).to(dtype)
        up = torch.randn(rows, rank, *(1,) * (len(columns) - 1), generator=generator).to(dtype)
        modules[f"unet.{name}"] = Factors(down, up, alpha)
    return Adapter(modules, {"format": "pt"})


@pytest.mark.parametrize("layout", ["kohya", "diffusers"])
@pytest.mark.parametrize(
    ("width", "rank", "alpha", "dtype"),
    [
        (16, 1, 1.0, torch.float32),
        (2048, 4, 2.0, torch.float16),  # by which the pipeline of SDXL is asked
        (16, 40, -8.0, torch.bfloat16),
    ],
)
def test_the_stock_loader_takes_all_of_them(
    layout: str, width: int, rank: int, alpha: float, dtype: torch.dtype, tmp_path: Path
) -> None:
    file = tmp_path / "a.safetensors"
    unet = build_unet(cross_attention_dim=width)
    LAYOUTS[layout](adapter_of(unet, rank, alpha, dtype), file)
    adapter = read_adapter(file).checked()
    assert is_official(adapter, file, layout)
    found = loaded_by_diffusers(adapter, file)
    assert (found.count, found.misscaled, found.error) == (len(adapter.modules), 0, "")
    assert diffusers_takes(adapter, file, layout) == found


CHANGES = {
    "another alpha": lambda state, name: state[f"{name}.alpha"].mul_(2),
    "a lower rank": lambda state, name: state.update(
        {f"{name}.lora_down.weight": state[f"{name}.lora_down.weight"][:2].clone()}
        | {f"{name}.lora_up.weight": state[f"{name}.lora_up.weight"][:, :2].clone()}
    ),
    "a matrix with more axes": lambda state, name: state.update(
        {f"{name}.lora_up.weight": state[f"{name}.lora_up.weight"][..., None, None]}
    ),
    "8 bits": lambda state, name: state.update(
        {key: value.to(torch.float8_e4m3fn) for key, value in state.items() if "weight" in key}
    ),
    "a layer of no official one": lambda state, name: state.update(
        {
            key.replace(name, "lora_unet_conv_in"): state.pop(key)
            for key in list(state)
            if name in key
        }
    ),
    "a text encoder": lambda state, name: state.update(
        {
            key.replace(name, "lora_te_text_model_encoder_layers_0_mlp_fc1"): state[key].clone()
            for key in list(state)
            if name in key
        }
    ),
    "a stranger": lambda state, name: state.update({"stray": torch.ones(1)}),
    "no alpha": lambda state, name: [state.pop(key) for key in list(state) if ".alpha" in key],
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_other_file_is_loaded_for_real(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.safetensors"
    LAYOUTS["kohya"](adapter_of(build_unet(), 4, 4.0, torch.float32), file)
    state = load_file(file)
    CHANGES[change](state, "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q")
    save_file(state, file, read_header(file))
    asked: list[Path] = []
    monkeypatch.setattr(
        "lcm.formats.stock_loader.loaded_by_diffusers", lambda adapter, path: asked.append(path)
    )
    diffusers_takes(read_adapter(file), file)
    assert asked == [file]


def test_a_file_with_a_configuration_that_was_not_written_here_is_loaded_for_real(
    tmp_path: Path,
) -> None:
    """In kohya's layout diffusers refuses one, in its own it may say anything."""
    adapter = adapter_of(build_unet(), 4, 4.0, torch.float32)
    LAYOUTS["diffusers"](adapter, tmp_path / "theirs.safetensors")
    header = read_header(tmp_path / "theirs.safetensors")
    config = json.loads(header["lora_adapter_metadata"]) | {"unet.use_rslora": True}
    LAYOUTS["kohya"](adapter, tmp_path / "kohya.safetensors")
    for name in ("theirs", "kohya"):
        file = tmp_path / f"{name}.safetensors"
        changed = {**header, "lora_adapter_metadata": json.dumps(config)}
        save_file(load_file(file), file, changed)
        read = read_adapter(file)
        assert diffusers_takes(read, file) == loaded_by_diffusers(read, file)
    assert diffusers_takes(read, file).error
