"""The adapter file's keys, for the real SD 1.5 and SDXL architectures, against a description of the
original ldm / sgm model.

Programs that keep the original layout inside (ComfyUI, A1111) translate the file's diffusers block
names into ldm block numbers and leave out, without an error, what they do not recognise. So the
names are checked against a walk over the ldm model that knows neither the adapter nor the module
tree of diffusers. U-Nets are on the meta device and take no memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
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

SD15_UNET: dict[str, Any] = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "down_block_types": (
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "DownBlock2D",
    ),
    "up_block_types": (
        "UpBlock2D",
        "CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D",
    ),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "norm_num_groups": 32,
}
SDXL_UNET: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "norm_num_groups": 32,
}

RES_BLOCKS = 2  # num_res_blocks of both models
RANK, ALPHA = 4, 2.5  # for keys and shapes; the published rank of 64 is counted only


class Layer(NamedTuple):
    """Widths of a linear layer (kernel 0) or a convolution."""

    inputs: int
    outputs: int
    kernel: int

    def down(self, rank: int) -> tuple[int, ...]:
        return (rank, self.inputs, self.kernel, self.kernel) if self.kernel else (rank, self.inputs)

    def up(self, rank: int) -> tuple[int, ...]:
        return (self.outputs, rank, 1, 1) if self.kernel else (self.outputs, rank)

    def lora_size(self, rank: int) -> int:
        return rank * (self.inputs * max(self.kernel, 1) ** 2 + self.outputs)


@dataclass(frozen=True)
class Original:
    """An ldm / sgm U-Net as its configuration file gives it, and what the adapter must come to."""

    unet: dict[str, Any]
    pipeline: Any
    widths: tuple[int, ...]  # model_channels x channel_mult
    depths: tuple[int, ...]  # transformer blocks per level, 0: no attention there
    middle_depth: int
    context: int
    linear_projection: bool
    modules: int
    parameters: int  # at rank 64


SD15 = Original(
    SD15_UNET,
    StableDiffusionPipeline,
    (320, 640, 1280, 1280),
    (1, 1, 1, 0),
    1,
    768,
    False,
    278,
    67_252_224,
)
SDXL = Original(
    SDXL_UNET,
    StableDiffusionXLPipeline,
    (320, 640, 1280),
    (0, 2, 10),
    10,
    2048,
    True,
    788,
    196_751_360,
)


def res_block(name: str, inputs: int, outputs: int, time: int) -> Iterator[tuple[str, Layer]]:
    yield f"{name}.in_layers.2", Layer(inputs, outputs, 3)
    yield f"{name}.emb_layers.1", Layer(time, outputs, 0)
    yield f"{name}.out_layers.3", Layer(outputs, outputs, 3)
    if inputs != outputs:
        yield f"{name}.skip_connection", Layer(inputs, outputs, 1)


def spatial_transformer(
    name: str, width: int, depth: int, model: Original
) -> Iterator[tuple[str, Layer]]:
    kernel = 0 if model.linear_projection else 1
    yield f"{name}.proj_in", Layer(width, width, kernel)
    yield f"{name}.proj_out", Layer(width, width, kernel)
    for index in range(depth):
        block = f"{name}.transformer_blocks.{index}"
        for attention, source in (("attn1", width), ("attn2", model.context)):
            yield f"{block}.{attention}.to_q", Layer(width, width, 0)
            yield f"{block}.{attention}.to_k", Layer(source, width, 0)
            yield f"{block}.{attention}.to_v", Layer(source, width, 0)
            yield f"{block}.{attention}.to_out.0", Layer(width, width, 0)
        yield f"{block}.ff.net.0.proj", Layer(width, 2 * 4 * width, 0)  # GEGLU: value and gate
        yield f"{block}.ff.net.2", Layer(4 * width, width, 0)


def ldm_layers(model: Original) -> Iterator[tuple[str, Layer]]:
    """The layers inside input_blocks, middle_block and output_blocks, but for the first
    convolution.
    """
    time = 4 * model.widths[0]
    levels = list(enumerate(zip(model.widths, model.depths, strict=True)))
    width = model.widths[0]
    # what input_blocks.N hands over to the output side; N = 0 is the first convolution
    skips = [width]
    for level, (outputs, depth) in levels:
        for _ in range(RES_BLOCKS):
            name = f"input_blocks.{len(skips)}"
            yield from res_block(f"{name}.0", width, outputs, time)
            width = outputs
            if depth:
                yield from spatial_transformer(f"{name}.1", width, depth, model)
            skips.append(width)
        if level < len(levels) - 1:
            yield f"input_blocks.{len(skips)}.0.op", Layer(width, width, 3)
            skips.append(width)
    yield from res_block("middle_block.0", width, width, time)
    yield from spatial_transformer("middle_block.1", width, model.middle_depth, model)
    yield from res_block("middle_block.2", width, width, time)
    number = 0
    for level, (outputs, depth) in reversed(levels):
        for index in range(RES_BLOCKS + 1):
            name = f"output_blocks.{number}"
            yield from res_block(f"{name}.0", width + skips.pop(), outputs, time)
            width = outputs
            if depth:
                yield from spatial_transformer(f"{name}.1", width, depth, model)
            if level and index == RES_BLOCKS:
                yield f"{name}.{2 if depth else 1}.conv", Layer(width, width, 3)
            number += 1
    assert not skips


RES_BLOCK_NAMES = {
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}


def kohya_name(ldm_name: str) -> str:
    """The adapter file's name of a layer of the original model."""
    side, numbers = ldm_name.split(".", 1)
    if side == "middle_block":
        part, leaf = numbers.split(".", 1)
        block, index = "mid_block", int(part) // 2
    else:
        number, part, leaf = numbers.split(".", 2)
        place, index = divmod(int(number) - (side == "input_blocks"), RES_BLOCKS + 1)
        block = f"{'down' if side == 'input_blocks' else 'up'}_blocks_{place}"
    if leaf == "op":
        module = "downsamplers_0_conv"
    elif leaf == "conv":
        module = "upsamplers_0_conv"
    elif leaf in RES_BLOCK_NAMES:
        module = f"resnets_{index}_{RES_BLOCK_NAMES[leaf]}"
    else:
        module = f"attentions_{index}_{leaf.replace('.', '_')}"
    return f"lora_unet_{block}_{module}"


@dataclass(frozen=True)
class Case:
    """One model: the layers that must be adapted by name, and what the adapter wrote."""

    model: Original
    layers: dict[str, Layer]
    state: dict[str, Tensor]


def meta_unet(model: Original) -> Any:
    with torch.device("meta"):
        return UNet2DConditionModel(**model.unet)


@pytest.fixture(scope="module", params=[SD15, SDXL], ids=["sd15", "sdxl"])
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


# --- files of other layouts, for the real architectures -------------------------------------------

SD2_UNET = {
    **SD15_UNET,
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
    "attention_head_dim": (5, 10, 20, 20),
}


@pytest.mark.parametrize("config", [SD15_UNET, SD2_UNET, SDXL_UNET], ids=["sd15", "sd2", "sdxl"])
def test_underscored_names_of_every_layer_are_cut_where_the_dots_were(
    config: dict[str, Any],
) -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
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
