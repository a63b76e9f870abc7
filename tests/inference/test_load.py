"""Attaching an adapter to stock pipelines, and our pipelines against the stock ones."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import LCMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file

import lcm
from lcm.adapter.files import read_header
from lcm.adapter.names import WEIGHTS_NAME
from lcm.pipelines import FewStepStableDiffusionPipeline, FewStepStableDiffusionXLPipeline
from tests.support.adapters import adapt, everything, make_recipe, write_adapter
from tests.support.pipelines import SIZE, draw
from tests.support.worlds import build_sd, build_sdxl, build_unet, randomize_lora

STEPS = (1, 2, 3, 4, 6, 8)


@pytest.fixture(scope="module")
def sd_adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(tmp_path_factory.mktemp("adapter"), build_sd, make_recipe())


def stock_with_adapter(pipe: Any, adapter: Path, grid: int = 50) -> Any:
    """What a user without this package writes."""
    pipe.load_lora_weights(adapter, weight_name=WEIGHTS_NAME)
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config, original_inference_steps=grid)
    return pipe


@pytest.mark.parametrize(
    ("build", "adapter"), [(build_sd, "sd_adapter"), (build_sdxl, "sdxl_adapter")]
)
def test_attach_equals_loading_by_hand_in_stock_diffusers(
    build: Any, adapter: str, request: pytest.FixtureRequest
) -> None:
    attached, folder = build(), request.getfixturevalue(adapter)
    lcm.attach(attached, folder)
    by_hand = stock_with_adapter(build(), folder)
    for steps in STEPS:
        options = {"num_inference_steps": steps, "guidance_scale": 1.0}
        assert np.array_equal(draw(attached, **SIZE, **options), draw(by_hand, **SIZE, **options))


@pytest.mark.parametrize(
    ("ours", "stock", "stock_options", "build", "adapter"),
    [
        (
            FewStepStableDiffusionPipeline,
            StableDiffusionPipeline,
            {"requires_safety_checker": False},
            build_sd,
            "sd_adapter",
        ),
        (
            FewStepStableDiffusionXLPipeline,
            StableDiffusionXLPipeline,
            {"add_watermarker": False},
            build_sdxl,
            "sdxl_adapter",
        ),
    ],
)
def test_our_pipelines_default_to_four_steps_without_guidance_and_equal_the_stock_ones(
    ours: Any,
    stock: Any,
    stock_options: Any,
    build: Any,
    adapter: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    folder = request.getfixturevalue(adapter)
    build().save_pretrained(tmp_path / "base")
    pipe = ours.from_pretrained_with_adapter(tmp_path / "base", folder)
    by_hand = stock_with_adapter(build(), folder)
    # the very same modules in a stock pipeline: bit for bit
    shared = stock(**pipe.components, **stock_options)
    assert np.array_equal(
        draw(pipe, **SIZE), draw(shared, **SIZE, num_inference_steps=4, guidance_scale=1.0)
    )
    for steps in (1, 8):
        drawn = draw(pipe, **SIZE, num_inference_steps=steps)
        options = {**SIZE, "num_inference_steps": steps, "guidance_scale": 1.0}
        assert np.array_equal(drawn, draw(shared, **options))
        np.testing.assert_allclose(drawn, draw(by_hand, **options), atol=1e-5)
    guided = {"num_inference_steps": 2, "guidance_scale": 1.5, "negative_prompt": "blue"}
    assert np.array_equal(draw(pipe, **SIZE, **guided), draw(shared, **SIZE, **guided))
    with pytest.raises(TypeError, match="num_steps"):
        draw(pipe, **SIZE, num_steps=2)
    with pytest.raises(ValueError, match="fuse_lora"):
        pipe.save_pretrained(tmp_path / "saved")
    pipe.unload_lora_weights()
    pipe.save_pretrained(tmp_path / "saved")
    assert type(stock.from_pretrained(tmp_path / "saved")) is stock


def test_attach_sets_the_scheduler_of_the_recipe_on_the_base_models_own_betas(
    tmp_path: Path,
) -> None:
    scheduler_config = {
        "original_inference_steps": 40,
        "timestep_scaling": 5.0,
        "rescale_betas_zero_snr": True,
    }
    recipe = make_recipe(
        prediction_type="v_prediction", zero_terminal_snr=True, scheduler_config=scheduler_config
    )
    pipe = build_sd("v_prediction", zero_snr=True)
    lcm.attach(pipe, write_adapter(tmp_path, build_sd, recipe))
    assert isinstance(pipe.scheduler, LCMScheduler)
    for name, value in {
        **scheduler_config,
        "prediction_type": "v_prediction",
        "beta_start": 0.00085,
    }.items():
        assert pipe.scheduler.config[name] == value
    assert np.isfinite(draw(pipe, **SIZE, num_inference_steps=4, guidance_scale=1.0)).all()


def test_weight_scales_the_adapter_and_zero_is_the_base_model(sd_adapter: Path) -> None:
    options = {"num_inference_steps": 2, "guidance_scale": 1.0}
    pictures = {}
    for weight in (0.0, 0.5, 1.0):
        pipe = build_sd()
        lcm.attach(pipe, sd_adapter, weight)
        pictures[weight] = draw(pipe, **SIZE, **options)
    base = build_sd()
    base.scheduler = LCMScheduler.from_config(base.scheduler.config)
    assert np.allclose(pictures[0.0], draw(base, **SIZE, **options), atol=1e-6)
    assert not np.allclose(pictures[0.5], pictures[1.0], atol=1e-4)


def test_an_active_style_adapter_keeps_its_weight(sd_adapter: Path) -> None:
    pipe = build_sd()
    pipe.unet.add_adapter(
        LoraConfig(r=2, lora_alpha=6, target_modules=["to_q"]), adapter_name="style"
    )
    pipe.set_adapters(["style"], [0.7])
    lcm.attach(pipe, sd_adapter, weight=0.9)
    assert pipe.get_active_adapters() == ["style", "lcm"]
    layer = pipe.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1.to_q
    assert layer.scaling["style"] == pytest.approx(0.7 * 3)
    assert layer.scaling["lcm"] == pytest.approx(0.9)


def test_adapters_of_the_text_encoder_are_left_alone(sd_adapter: Path) -> None:
    pipe = build_sd()
    pipe.unet.add_adapter(
        LoraConfig(r=2, lora_alpha=2, target_modules=["to_q"]), adapter_name="style"
    )
    adapt(
        pipe.text_encoder,
        LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj"]),
        adapter_name="style",
    )
    pipe.set_adapters(["style"], [{"unet": 0.5, "text_encoder": 0.2}])
    encoder = next(m for m in pipe.text_encoder.modules() if isinstance(m, LoraLayer))
    before = (list(encoder.active_adapters), dict(encoder.scaling))
    lcm.attach(pipe, sd_adapter)
    assert (list(encoder.active_adapters), dict(encoder.scaling)) == before
    layer = pipe.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1.to_q
    assert layer.scaling == {"style": 0.5, "lcm": 1.0}
    assert list(layer.active_adapters) == ["style", "lcm"]


def refuse(pipe: Any, adapter: Path, message: str, **options: Any) -> None:
    """attach raises, and leaves scheduler and adapters as they were."""
    scheduler, adapters = pipe.scheduler, pipe.get_list_adapters()
    with pytest.raises(ValueError, match=message):
        lcm.attach(pipe, adapter, **options)
    assert pipe.scheduler is scheduler
    assert pipe.get_list_adapters() == adapters


def elsewhere(state: dict[str, torch.Tensor]) -> None:
    """One layer more than the U-Net has."""
    for key in [key for key in state if "mid_block_attentions_0_proj_in" in key]:
        state[key.replace("attentions_0", "attentions_7")] = state[key].clone()


def misshapen(state: dict[str, torch.Tensor]) -> None:
    """The last layer is wider than that of the U-Net."""
    key = max(key for key in state if key.endswith("lora_down.weight") and state[key].dim() == 2)
    state[key] = torch.zeros(4, 99)


def halved(state: dict[str, torch.Tensor]) -> None:
    del state[max(key for key in state if key.endswith("lora_up.weight"))]


@pytest.mark.parametrize("adapted", [False, True], ids=["bare", "with styles"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (elsewhere, r"does not fit this pipeline: this base has no layer .*attentions\.7"),
        (misshapen, r"does not fit this pipeline: .* of this base is \[\d+, \d+\]"),
        (halved, "has no up matrix beside it"),
        (None, "no room for the text encoder"),
    ],
)
def test_an_adapter_that_fails_while_it_loads_leaves_the_pipeline_as_it_was(
    sd_adapter: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: Any,
    message: str,
    adapted: bool,
) -> None:
    state, pipe = load_file(sd_adapter / WEIGHTS_NAME), build_sd()
    if adapted:
        for name, rank in (("style", 2), ("unused", 3)):
            pipe.unet.add_adapter(
                LoraConfig(r=rank, lora_alpha=6, target_modules=["to_q", "conv1"]),
                adapter_name=name,
            )
            adapt(
                pipe.text_encoder,
                LoraConfig(r=rank, lora_alpha=8, target_modules=["q_proj"]),
                adapter_name=name,
            )
        randomize_lora(pipe.unet)
        pipe.set_adapters(["style"], [0.7])
    if damage is None:

        def fail(*args: Any, **options: Any) -> None:
            raise RuntimeError(message)

        monkeypatch.setattr(pipe, "load_lora_into_text_encoder", fail)
    else:
        damage(state)
    save_file(state, tmp_path / WEIGHTS_NAME, metadata=read_header(sd_adapter / WEIGHTS_NAME))
    options = {"num_inference_steps": 2, "guidance_scale": 1.0}
    before, picture = everything(pipe), draw(pipe, **SIZE, **options)
    for _ in range(2):  # what was left of the first time would be in the way of the second
        with pytest.raises(ValueError, match=message) as caught:
            lcm.attach(pipe, tmp_path)
        assert "\n" not in str(caught.value)
    assert everything(pipe) == before
    assert np.array_equal(draw(pipe, **SIZE, **options), picture)
    monkeypatch.undo()
    lcm.attach(pipe, sd_adapter)
    assert pipe.unet.active_adapters() == [*(["style"] if adapted else []), "lcm"]
    assert not np.allclose(draw(pipe, **SIZE, **options), picture)


def test_what_cannot_work_is_refused_and_nothing_changes(
    sd_adapter: Path, sdxl_adapter: Path, tmp_path: Path
) -> None:
    refuse(build_sd(), sdxl_adapter, "made for a sdxl U-Net with text width 32")
    refuse(build_sdxl(), sd_adapter, "this pipeline has a sdxl U-Net")
    refuse(build_sd("v_prediction"), sd_adapter, "trained on a epsilon teacher")
    broken = build_sd()
    broken.scheduler.register_to_config(rescale_betas_zero_snr=True)
    refuse(broken, sd_adapter, "rescale_betas_zero_snr=False")
    refuse(build_sd(unet=build_unet(cross_attention_dim=24)), sd_adapter, "text width 24")
    twice = build_sd()
    lcm.attach(twice, sd_adapter)
    copied = tmp_path / "another.safetensors"
    shutil.copy(sd_adapter / WEIGHTS_NAME, copied)
    refuse(twice, copied, "already loaded")


def test_files_that_are_no_adapter_of_ours_are_named(tmp_path: Path, sd_adapter: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no adapter at"):
        lcm.read_recipe(tmp_path / "nowhere.safetensors")
    with pytest.raises(FileNotFoundError, match=f"holds no {WEIGHTS_NAME}"):
        lcm.read_recipe(tmp_path)
    pipe = build_sd()
    pipe.unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q"]))
    StableDiffusionPipeline.save_lora_weights(
        tmp_path, unet_lora_layers={"a.lora_A.weight": torch.zeros(2, 2)}
    )
    with pytest.raises(ValueError, match="carries no recipe"):
        lcm.read_recipe(tmp_path)
    lcm.attach(build_sd(), sd_adapter / WEIGHTS_NAME, recipe=make_recipe())
