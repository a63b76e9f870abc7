"""The files of networks, tokenizers and schedulers are data, and their weights safetensors or
nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from lcm.models.base_model import load_base
from tests.support.hostile import NOT_JSON, SPY, is_one_line, pickled, rewrite

pytestmark = pytest.mark.usefixtures("spies")


def refused(folder: Path) -> str:
    with pytest.raises((ValueError, OSError)) as caught:
        load_base(folder)
    assert is_one_line(caught.value), caught.value
    assert str(folder) in str(caught.value)
    return str(caught.value)


ACTED_ON: dict[str, tuple[str, dict[str, Any]]] = {
    "code of a text encoder": (
        "text_encoder/config.json",
        {"auto_map": {"AutoModel": f"{SPY}.Component"}},
    ),
    "code inside": ("text_encoder/config.json", {"text_config": {"auto_map": {"x": SPY}}}),
    "code of a tokenizer": (
        "tokenizer/tokenizer_config.json",
        {"auto_map": {"AutoTokenizer": [f"{SPY}.Component", None]}},
    ),
    "kernels of the hub": ("text_encoder/config.json", {"attn_implementation": "evil/kernels"}),
    "kernels, private": ("text_encoder/config.json", {"_attn_implementation": "evil/kernels"}),
    "a library": ("unet/config.json", {"quantization_config": {"quant_method": "bitsandbytes"}}),
    "a library of transformers": (
        "text_encoder/config.json",
        {"quantization_config": {"quant_method": "bitsandbytes"}},
    ),
    "another class": ("unet/config.json", {"_class_name": "AutoencoderKL"}),
    "no class": ("vae/config.json", {"_class_name": [SPY, "Component"]}),
    "another scheduler": ("scheduler/scheduler_config.json", {"_class_name": "StableDiffusion"}),
    "weights elsewhere": ("text_encoder/config.json", {"transformers_weights": "evil.bin"}),
    "a vocabulary elsewhere": ("tokenizer/tokenizer_config.json", {"vocab_file": "/etc/passwd"}),
    "up": ("tokenizer/tokenizer_config.json", {"merges_file": "../../secret"}),
    "layers": ("unet/config.json", {"layers_per_block": 10**9}),
    "layers of text": ("text_encoder/config.json", {"num_hidden_layers": 10**9}),
    "positions": ("text_encoder/config.json", {"max_position_embeddings": 10**12}),
    "timesteps": ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**9}),
    "betas": ("scheduler/scheduler_config.json", {"beta_start": float("nan")}),
    "defaults": ("unet/config.json", {"_use_default_values": 5}),
    "divisor": ("vae/config.json", {"norm_num_groups": 0}),
    "blocks": ("unet/config.json", {"down_block_types": [SPY, SPY]}),
}


@pytest.mark.parametrize(("name", "change"), ACTED_ON.values(), ids=ACTED_ON)
def test_a_configuration_is_data(
    folder: Path, world: Path, name: str, change: dict[str, Any]
) -> None:
    rewrite(folder / name, **change)
    refused(folder)
    with pytest.raises((ValueError, OSError)) as caught:
        load_base(world / "sd.safetensors", base_config=folder)
    assert is_one_line(caught.value)


@pytest.mark.parametrize("content", NOT_JSON.values(), ids=NOT_JSON)
@pytest.mark.parametrize("name", ["unet/config.json", "text_encoder/config.json"])
def test_a_configuration_that_is_none_is_named(
    folder: Path, world: Path, name: str, content: bytes
) -> None:
    (folder / name).write_bytes(content)
    assert str(folder / name) in refused(folder)


@pytest.mark.parametrize(
    "name",
    ["unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"],
)
@pytest.mark.parametrize("way", ["beside", "as shard", "elsewhere", "in its name"])
def test_weights_are_safetensors_or_nothing(folder: Path, world: Path, name: str, way: str) -> None:
    weights = folder / f"{name}.safetensors"
    keys = list(load_file(weights))
    weights.unlink()
    part = "pytorch_model.bin" if name.endswith("/model") else "diffusion_pytorch_model.bin"
    shard = {"as shard": part, "elsewhere": "../../sd.safetensors"}.get(way)
    pickled(weights if way == "in its name" else weights.with_name(part))
    if shard:
        index = {"metadata": {}, "weight_map": dict.fromkeys(keys, shard)}
        weights.with_name(f"{weights.name}.index.json").write_text(json.dumps(index))
    refused(folder)


def test_an_adapter_inside_a_component_is_not_loaded(folder: Path, world: Path) -> None:
    (folder / "text_encoder" / "adapter_config.json").write_text('{"base_model_name_or_path": "x"}')
    pickled(folder / "text_encoder" / "adapter_model.bin")
    assert "adapter_config.json" in refused(folder)


def test_the_configuration_of_a_single_file_gives_no_weights(
    folder: Path, world: Path, tmp_path: Path
) -> None:
    """Without this tensor diffusers takes the text encoder for one that is not in the file."""
    (folder / "text_encoder" / "model.safetensors").unlink()
    pickled(folder / "text_encoder" / "pytorch_model.bin")
    state = load_file(world / "sd.safetensors")
    state.pop("cond_stage_model.transformer.text_model.embeddings.position_embedding.weight")
    save_file(state, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match="lacks a part of its text encoder"):
        load_base(tmp_path / "m.safetensors", base_config=folder)


def test_a_vae_is_held_to_the_same(folder: Path, world: Path) -> None:
    vae = folder / "vae"

    def refuse() -> None:
        with pytest.raises(FileNotFoundError, match=r"^vae_path: ") as caught:
            load_base(world / "sd", vae_path=str(vae))
        assert is_one_line(caught.value)

    for name, change in (entry for entry in ACTED_ON.values() if entry[0].startswith("vae/")):
        before = (folder / name).read_text()
        rewrite(folder / name, **change)
        refuse()
        (folder / name).write_text(before)
    load_base(world / "sd", vae_path=str(vae))
    (vae / "diffusion_pytorch_model.safetensors").unlink()
    pickled(vae / "diffusion_pytorch_model.bin")
    refuse()


@pytest.mark.parametrize("variant", ["safetensors.index.fp16", "fp16.safetensors.index"])
def test_an_index_of_a_variant_names_safetensors_alone(folder: Path, variant: str) -> None:
    path = folder / "unet" / f"diffusion_pytorch_model.{variant}.json"
    path.write_text(json.dumps({"weight_map": {"a": "diffusion_pytorch_model.bin"}}))
    assert "no safetensors file" in refused(folder)
