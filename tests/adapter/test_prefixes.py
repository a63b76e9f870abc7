"""One LoRA, spelt with every prefix that files have: what is read is the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lcm.adapter.kohya import COMPONENT_PREFIXES, underscored
from lcm.adapter.prefixes import DOTTED, PREFIXES, UNDERSCORED, WRAPPERS
from lcm.formats.names import dotted
from lcm.formats.programs import comfyui_names, what_takes
from lcm.formats.read import read_adapter
from tests.support.ldm import SD15, kohya_name, ldm_layers

UNET = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_out.0"
TEXT = "text_model.encoder.layers.1.self_attn.q_proj"
LAYERS = {"unet": UNET, "text_encoder": TEXT, "text_encoder_2": TEXT}

PUBLIC = {
    # kohya-ss/sd-scripts, OneTrainer, LyCORIS and SimpleTuner, StableCascade
    "lora_unet_": "unet",
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "lycoris_": "unet",
    "lora_prior_unet_": "unet",
    "lora_prior_te_": "text_encoder_2",
    # diffusers and PEFT
    "": "unet",
    "unet.": "unet",
    "text_encoder.": "text_encoder",
    "text_encoder_2.": "text_encoder_2",
    "base_model.model.": "unet",
    "unet.base_model.model.": "unet",
    "text_encoder.base_model.model.": "text_encoder",
    "module._orig_mod.": "unet",
    # ComfyUI's own names, in comfy/lora.py
    "diffusion_model.": "unet",
    "model.diffusion_model.": "unet",
    "text_encoders.clip_l.transformer.": "text_encoder",
    "text_encoders.clip_h.transformer.": "text_encoder",
    "text_encoders.clip_g.transformer.": "text_encoder_2",
    # checkpoints
    "cond_stage_model.transformer.": "text_encoder",
    "conditioner.embedders.0.transformer.": "text_encoder",
}
"""What public programs put before the name of a layer, and the network that they mean."""

PARTS = (
    (".lora_down.weight", ".lora_up.weight"),
    (".lora_A.weight", ".lora_B.weight"),
    (".lora_A.default.weight", ".lora_B.default.weight"),
    (".lora_A", ".lora_B"),
    (".lora.down.weight", ".lora.up.weight"),
    (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
)


def spelt(prefix: str, component: str) -> str:
    name = LAYERS[component]
    return prefix + (underscored(name) if prefix.endswith("_") else name)


@pytest.mark.parametrize("prefix", [*PUBLIC, *(p for p in PREFIXES if p not in PUBLIC)])
@pytest.mark.parametrize("parts", PARTS, ids=lambda parts: parts[0])
def test_every_spelling_of_a_lora_is_read_as_the_same_factors(
    prefix: str, parts: tuple[str, str], tmp_path: Path
) -> None:
    component = PUBLIC.get(prefix) or PREFIXES[prefix].component or "unet"
    stem = spelt(prefix, component)
    down, up = torch.randn(2, 8), torch.randn(6, 2)
    save_file(
        {stem + parts[0]: down, stem + parts[1]: up, f"{stem}.alpha": torch.tensor(3.0)},
        tmp_path / "a.safetensors",
    )
    adapter = read_adapter(tmp_path / "a.safetensors")
    assert adapter.problems == []
    (factors,) = adapter.modules.values()
    assert list(adapter.modules) == [f"{component}.{LAYERS[component]}"]
    assert torch.equal(factors.down, down) and torch.equal(factors.up, up) and factors.alpha == 3


def test_the_tools_have_one_table() -> None:
    """What is written, and what ComfyUI is said to read, are prefixes that are read."""
    assert set(COMPONENT_PREFIXES.values()) <= set(UNDERSCORED)
    assert {PREFIXES[p].component for p in COMPONENT_PREFIXES.values()} == set(COMPONENT_PREFIXES)
    assert PREFIXES.keys() == {*UNDERSCORED, *DOTTED, *WRAPPERS}
    # comfy/lora.py: lora_unet_, lycoris_, and the older dotted names with and without unet.
    older = UNET.replace(".to_out.0", ".processor.to_out")
    expected = {
        f"lora_unet_{underscored(UNET)}",
        f"lycoris_{underscored(UNET)}",
        older,
        f"unet.{older}",
    }
    assert comfyui_names(UNET) == expected


@pytest.mark.parametrize(
    ("prefix", "taken"), [("lora_unet_", 1), ("lycoris_", 1), ("lora_prior_unet_", 0), ("unet.", 0)]
)
def test_what_comfyui_takes_is_told_by_the_same_table(
    prefix: str, taken: int, tmp_path: Path
) -> None:
    stem = spelt(prefix, "unet")
    matrices = {
        f"{stem}.lora_down.weight": torch.ones(2, 8),
        f"{stem}.lora_up.weight": torch.ones(6, 2),
    }
    save_file(matrices, file := tmp_path / "a.safetensors")
    assert what_takes(read_adapter(file), file)["ComfyUI"].count == taken


@pytest.mark.parametrize(
    "prefix", [p for p, entry in PREFIXES.items() if entry.component == "unet"]
)
def test_names_of_the_original_blocks_stand_behind_every_prefix(
    prefix: str, tmp_path: Path
) -> None:
    original, _ = next((n, shape) for n, shape in ldm_layers(SD15) if "input_blocks.4.1" in n)
    stem = prefix + (underscored(original) if prefix.endswith("_") else original)
    save_file(
        {f"{stem}.lora_down.weight": torch.ones(2, 8), f"{stem}.lora_up.weight": torch.ones(6, 2)},
        file := tmp_path / "a.safetensors",
    )
    expected = dotted(kohya_name(original).removeprefix("lora_unet_"))
    assert list(read_adapter(file).modules) == [f"unet.{expected}"]
