"""The adapter file's keys, for the real SD 1.5 and SDXL architectures, against a description of the
original ldm / sgm model. U-Nets are on the meta device and take no memory."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn

from lcm.adapter.export import kohya_state_dict
from lcm.adapter.kohya import underscored
from lcm.adapter.lora import add_lora, lora_modules
from lcm.adapter.names import WEIGHTS_NAME
from lcm.formats import diffusers, kohya
from lcm.formats.names import dotted, from_ldm, is_layer
from lcm.formats.programs import what_takes
from lcm.formats.read import read_adapter
from tests.support.ldm import ORIGINALS, SD15, SDXL, Layer, Original, kohya_name, ldm_layers

RANK, ALPHA = 4, 2.5  # for keys and shapes; the published rank of 64 is counted only


@dataclass(frozen=True)
class Case:
    """One model: the layers that must be adapted by name, and what the adapter wrote."""

    model: Original
    layers: dict[str, Layer]
    state: dict[str, Tensor]


def meta_unet(model: Original) -> Any:
    with torch.device("meta"):
        return UNet2DConditionModel(**model.unet)


@pytest.fixture(scope="module", params=[SD15, SDXL], ids=lambda model: model.name)
def case(request: pytest.FixtureRequest) -> Case:
    unet = meta_unet(request.param)
    add_lora(unet, RANK, ALPHA)
    # the file's tensors are on the CPU, so the adapter needs memory
    for layer in lora_modules(unet).values():
        layer.lora_A.to_empty(device="cpu")
        layer.lora_B.to_empty(device="cpu")
    layers = {kohya_name(name): layer for name, layer in ldm_layers(request.param)}
    return Case(request.param, layers, kohya_state_dict(unet))


def names(state: dict[str, Tensor]) -> set[str]:
    return {key.split(".", 1)[0] for key in state}


def test_the_names_are_those_of_the_original_model(case: Case) -> None:
    ldm_names = [name for name, _ in ldm_layers(case.model)]
    assert len(ldm_names) == len(set(ldm_names)) == len(case.layers) == case.model.modules
    written = names(case.state)
    assert sorted(written - set(case.layers)) == []
    assert sorted(set(case.layers) - written) == []


def test_every_module_has_exactly_three_keys(case: Case) -> None:
    parts = ("lora_down.weight", "lora_up.weight", "alpha")
    assert set(case.state) == {f"{name}.{part}" for name in case.layers for part in parts}
    assert Counter(key.split(".", 1)[1] for key in case.state) == dict.fromkeys(
        parts, case.model.modules
    )


def test_shapes_follow_from_the_original_layers(case: Case) -> None:
    for name, layer in case.layers.items():
        assert tuple(case.state[f"{name}.lora_down.weight"].shape) == layer.down(RANK), name
        assert tuple(case.state[f"{name}.lora_up.weight"].shape) == layer.up(RANK), name


def test_alpha_is_a_scalar_with_the_given_value(case: Case) -> None:
    for name in case.layers:
        alpha = case.state[f"{name}.alpha"]
        assert alpha.shape == () and alpha.item() == ALPHA, name


def test_size_at_rank_64(case: Case) -> None:
    unet = meta_unet(case.model)
    parameters = add_lora(unet, 64)
    assert len(lora_modules(unet)) == case.model.modules
    assert len(parameters) == 2 * case.model.modules
    assert sum(parameter.numel() for parameter in parameters) == case.model.parameters
    assert sum(layer.lora_size(64) for layer in case.layers.values()) == case.model.parameters


def test_diffusers_converts_and_loads_every_module(case: Case) -> None:
    fresh = meta_unet(case.model)
    state, alphas = case.model.pipeline.lora_state_dict(dict(case.state), unet_config=fresh.config)
    assert sum(key.endswith("down.weight") for key in state) == case.model.modules
    assert sum(key.endswith("up.weight") for key in state) == case.model.modules
    assert len(state) == 2 * case.model.modules
    assert len(alphas) == case.model.modules and set(alphas.values()) == {ALPHA}
    case.model.pipeline.load_lora_into_unet(
        state, network_alphas=alphas, unet=fresh, adapter_name="default", low_cpu_mem_usage=True
    )
    loaded = {
        f"lora_unet_{name.replace('.', '_')}": layer for name, layer in lora_modules(fresh).items()
    }
    assert set(loaded) == set(case.layers)
    for name, layer in loaded.items():
        assert layer.scaling["default"] == ALPHA / RANK, name
        assert tuple(layer.lora_A["default"].weight.shape) == case.layers[name].down(RANK), name
        assert tuple(layer.lora_B["default"].weight.shape) == case.layers[name].up(RANK), name


@pytest.mark.parametrize("model", ORIGINALS, ids=lambda model: model.name)
def test_underscored_names_of_every_layer_are_cut_where_the_dots_were(
    model: Original,
) -> None:
    unet = meta_unet(model)
    layers = [
        name for name, module in unet.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)
    ]
    assert [
        name for name in layers if dotted(underscored(name)) != name or not is_layer("unet", name)
    ] == []


def test_numbers_of_the_original_blocks_become_those_of_diffusers(case: Case) -> None:
    for name, _ in ldm_layers(case.model):
        assert "lora_unet_" + underscored(from_ldm(dotted(underscored(name)))) == kohya_name(name)


def filled(case: Case) -> dict[str, Tensor]:
    return {
        key: torch.zeros_like(value) if value.dim() else value for key, value in case.state.items()
    }


def test_what_programs_take_of_our_file_and_of_one_in_diffusers_layout(
    case: Case, tmp_path: Path
) -> None:
    """Left out are, of diffusers' layout, all attention in ComfyUI and all in A1111; of kohya's,
    one layer of SDXL in A1111.
    """
    modules, file = case.model.modules, tmp_path / WEIGHTS_NAME
    attention = sum(".attn" in name for name, _ in ldm_layers(case.model))
    save_file(filled(case), file)
    adapter = read_adapter(file)
    ours = what_takes(adapter, file)
    misplaced = case.model is SDXL
    assert [taken.count for taken in ours.values()] == [modules, modules, modules - misplaced]
    assert ours["A1111"].missing == ("up_blocks.0.upsamplers.0.conv" if misplaced else "")
    assert not any(taken.misscaled for taken in ours.values())
    diffusers.write(adapter, tmp_path / "dotted.safetensors")
    dotted_file = what_takes(
        read_adapter(tmp_path / "dotted.safetensors"), tmp_path / "dotted.safetensors"
    )
    assert [taken.count for taken in dotted_file.values()] == [modules, modules - attention, 0]
    assert modules - attention == (228 if case.model is SDXL else 150)
    # alpha is where ComfyUI does not look
    assert dotted_file["ComfyUI"].misscaled == modules - attention


def test_a_file_with_the_original_block_numbers_is_rewritten_by_the_names_that_all_know(
    case: Case, tmp_path: Path
) -> None:
    original = {
        kohya_name(name): f"lora_unet_{underscored(name)}" for name, _ in ldm_layers(case.model)
    }
    state = {
        f"{original[stem]}.{part}": value
        for key, value in filled(case).items()
        for stem, part in [key.split(".", 1)]
    }
    save_file(state, tmp_path / WEIGHTS_NAME)
    adapter = read_adapter(tmp_path)
    assert adapter.problems == [] and list(adapter.layouts) == ["kohya with ldm blocks"]
    assert ["read with 2 layers a block" in note for note in adapter.notes] == [True]
    assert read_adapter(tmp_path, layers_per_block=2).notes == []
    kohya.write(adapter, tmp_path / "out.safetensors")
    assert {slot.stem for slot in read_adapter(tmp_path / "out.safetensors").slots} == set(
        case.layers
    )
