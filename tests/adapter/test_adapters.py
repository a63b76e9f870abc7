"""The adapter file: what is trained is what loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from benchmarks.true_models import unet_config
from lcm.adapter.export import export_lora, probe, verify_export
from lcm.adapter.files import read_header
from lcm.adapter.lora import add_lora, layers_named, lora_modules
from lcm.adapter.names import LORA_TARGETS, WEIGHTS_NAME
from lcm.adapter.recipe import Recipe
from lcm.inference import read_recipe
from tests.support.adapters import make_recipe, stock_load
from tests.support.worlds import build_sd, build_sdxl, randomize_lora

ATTENTION_ONLY = ("to_q", "to_k", "to_v", "to_out.0")


FAMILIES = {
    "sd": (build_sd, StableDiffusionPipeline, make_recipe()),
    "sdxl": (build_sdxl, StableDiffusionXLPipeline, make_recipe("sdxl", 32)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    "targets", [LORA_TARGETS, ATTENTION_ONLY], ids=["with convs", "attention only"]
)
@pytest.mark.parametrize("alpha", [None, 1.0, 12.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_reload_in_a_fresh_stock_pipeline_equals_the_student(
    tmp_path: Path, family: str, alpha: float | None, targets: tuple[str, ...], dtype: torch.dtype
) -> None:
    build, pipeline_class, recipe = FAMILIES[family]
    trained = build().unet
    add_lora(trained, 4, alpha, targets)
    randomize_lora(trained)
    export_lora(trained, tmp_path / WEIGHTS_NAME, recipe, dtype=dtype)
    verify_export(trained, tmp_path / WEIGHTS_NAME, pipeline_class)
    pipe = build()
    with torch.no_grad():
        inputs = probe(pipe.unet)
        base = pipe.unet(**inputs).sample
        stock_load(pipe, tmp_path)
        reloaded, student = pipe.unet(**inputs).sample, trained(**inputs).sample
    assert set(lora_modules(pipe.unet)) == set(lora_modules(trained))
    effect = (student - base).abs().max()
    tolerance = 3e-5 if dtype == torch.float32 else 5e-2
    assert (student - reloaded).abs().max() < tolerance * effect


class TensorCores(TorchFunctionMode):
    """Convolutions as NVIDIA's are unless torch is told otherwise: of what they multiply they keep
    10 bits. Here 7, since the tiny network has few layers for a last bit to grow in.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is F.conv2d and torch.backends.cudnn.allow_tf32:
            args = (*(a.bfloat16().float() for a in args[:2]), *args[2:])
        return func(*args, **(kwargs or {}))


def test_the_proof_does_not_depend_on_how_a_gpu_rounds(tmp_path: Path) -> None:
    trained = build_sd().unet
    add_lora(trained, 4)
    randomize_lora(trained)
    export_lora(trained, tmp_path / WEIGHTS_NAME, make_recipe())
    allowed = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    assert allowed[0]
    with TensorCores():
        verify_export(trained, tmp_path / WEIGHTS_NAME, StableDiffusionPipeline)
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == allowed


@pytest.mark.parametrize(
    "targets",
    [
        LORA_TARGETS,
        ATTENTION_ONLY,
        ("conv_in",),
        ("mid_block.attentions.0.proj_in", "attn2.to_q", "conv1"),
    ],
    ids=str,
)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_layers_are_known_before_there_is_an_adapter(
    family: str, targets: tuple[str, ...]
) -> None:
    unet = FAMILIES[family][0]().unet
    before = set(unet.state_dict())
    layers = layers_named(unet, targets)
    assert set(unet.state_dict()) == before
    add_lora(unet, 4, targets=targets)
    assert layers == set(lora_modules(unet))
    assert all(
        any(name == target or name.endswith(f".{target}") for target in targets) for name in layers
    )


def test_file_holds_alpha_rank_and_half_precision(tmp_path: Path) -> None:
    unet = build_sd().unet
    add_lora(unet, 4, 12.0)
    export_lora(unet, tmp_path / WEIGHTS_NAME, make_recipe())
    state = load_file(tmp_path / WEIGHTS_NAME)
    alphas = [value for key, value in state.items() if key.endswith(".alpha")]
    downs = [value for key, value in state.items() if key.endswith(".lora_down.weight")]
    assert len(alphas) == len(downs) == len(lora_modules(unet)) == len(state) / 3
    assert all(float(alpha) == 12.0 for alpha in alphas)
    assert all(down.dtype == torch.float16 and down.shape[0] == 4 for down in downs)


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        (make_recipe(), ("sd_v1", "False", "stable-diffusion-v1/lora")),
        (
            make_recipe("sdxl", 2048),
            ("sdxl_base_v1-0", "False", "stable-diffusion-xl-v1-base/lora"),
        ),
        (
            make_recipe(width=1024, prediction_type="v_prediction"),
            ("sd_v2-v", "True", "stable-diffusion-v2-768-v/lora"),
        ),
    ],
)
def test_header_tells_web_uis_what_the_adapter_is_for(
    tmp_path: Path, recipe: Recipe, expected: tuple[str, str, str]
) -> None:
    unet = build_sd().unet
    add_lora(unet, 4, 2.0)
    export_lora(unet, tmp_path / WEIGHTS_NAME, recipe, training={"ss_steps": "7"})
    header = read_header(tmp_path / WEIGHTS_NAME)
    assert (
        header["ss_base_model_version"],
        header["ss_v2"],
        header["modelspec.architecture"],
    ) == expected
    assert (header["ss_network_dim"], header["ss_network_alpha"], header["ss_steps"]) == (
        "4",
        "2.0",
        "7",
    )
    assert all(isinstance(value, str) for value in header.values())
    assert read_recipe(tmp_path) == recipe


def test_recipe_survives_json_and_unknown_future_fields() -> None:
    recipe = make_recipe()
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert Recipe.from_json(json.dumps({**json.loads(recipe.to_json()), "new": 1})) == recipe
    with pytest.raises(ValueError, match="incomplete"):
        Recipe.from_json('{"objective": "lcm"}')


def damage_scale(state: dict[str, torch.Tensor]) -> None:
    for key, value in state.items():
        if key.endswith(".alpha"):
            value.mul_(2)


def damage_one_tensor(state: dict[str, torch.Tensor]) -> None:
    key = next(key for key in state if key.endswith("conv1.lora_up.weight"))
    state[key] = state[key] + 0.1


def damage_missing_module(state: dict[str, torch.Tensor]) -> None:
    name = next(key for key in state if key.endswith("to_q.alpha")).removesuffix(".alpha")
    for part in (".alpha", ".lora_down.weight", ".lora_up.weight"):
        del state[name + part]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_scale, "scale"),
        (damage_one_tensor, "lora_B of layer"),
        (damage_missing_module, "adapted layers"),
    ],
)
def test_verification_notices_every_kind_of_damage(
    tmp_path: Path, damage: Any, message: str
) -> None:
    unet = build_sd().unet
    add_lora(unet, 4)
    randomize_lora(unet)
    path = tmp_path / WEIGHTS_NAME
    export_lora(unet, path, make_recipe())
    header, state = read_header(path), load_file(path)
    damage(state)
    save_file(state, path, metadata=header)
    with pytest.raises(RuntimeError, match=message):
        verify_export(unet, path, StableDiffusionPipeline)


def test_values_beyond_half_precision_are_refused_and_the_old_file_stays(tmp_path: Path) -> None:
    unet = build_sd().unet
    parameters = add_lora(unet, 4)
    path = tmp_path / WEIGHTS_NAME
    export_lora(unet, path, make_recipe())
    before = path.read_bytes()
    parameters[0].data.fill_(1e5)
    with pytest.raises(ValueError, match=r"not finite in torch\.float16"):
        export_lora(unet, path, make_recipe())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_the_probe_is_small_and_depends_on_every_adapted_layer(name: str) -> None:
    """With the blocks of the published models, a few channels wide."""
    unet = UNet2DConditionModel.from_config(unet_config(name, is_tiny=True))
    parameters = add_lora(unet, 4)
    randomize_lora(unet)
    inputs = probe(unet)
    assert max(inputs["sample"].shape[2:]) <= 16
    unet(**inputs).sample.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in parameters)
