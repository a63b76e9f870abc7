"""Several adapters on one pipeline, from this toolkit and from others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler, LCMScheduler
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file

import lcm
from lcm.adapter.names import WEIGHTS_NAME
from tests.support.adapters import everything, make_recipe, write_adapter
from tests.support.pipelines import BASE, FEW, SIZE, draw
from tests.support.worlds import build_sd


def test_several_adapters_are_one_call(adapter: Path, style: Path) -> None:
    pipe, by_hand = build_sd(), build_sd()
    before, picture = everything(pipe), draw(pipe, **SIZE, **BASE)
    recipe = lcm.attach(pipe, {adapter: 0.9, str(style): 0.7})
    assert recipe == make_recipe()
    assert pipe.get_list_adapters() == {"unet": ["lcm", "pixel_art"], "text_encoder": ["pixel_art"]}
    by_hand.load_lora_weights(adapter, weight_name=WEIGHTS_NAME, adapter_name="lcm")
    by_hand.load_lora_weights(style.parent, weight_name=style.name, adapter_name="pixel")
    by_hand.set_adapters(["lcm", "pixel"], [0.9, 0.7])
    by_hand.scheduler = LCMScheduler.from_config(by_hand.scheduler.config)
    np.testing.assert_allclose(draw(pipe, **SIZE, **FEW), draw(by_hand, **SIZE, **FEW), atol=1e-5)
    lcm.attach(pipe, {"pixel_art": 0.0})  # the rest stays
    by_hand.set_adapters(["lcm"], [0.9])
    np.testing.assert_allclose(draw(pipe, **SIZE, **FEW), draw(by_hand, **SIZE, **FEW), atol=1e-5)
    lcm.detach(pipe)
    assert everything(pipe) == before
    assert np.array_equal(draw(pipe, **SIZE, **BASE), picture)


def test_a_style_comes_later_and_an_adapter_is_named_again(adapter: Path, style: Path) -> None:
    pipe = build_sd()
    before = everything(pipe)
    recipe = lcm.attach(pipe, adapter)
    scheduler = pipe.scheduler
    assert lcm.attach(pipe, style, 0.5) == recipe
    assert pipe.scheduler is scheduler
    layer = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q
    encoder = next(
        module for module in pipe.text_encoder.modules() if isinstance(module, LoraLayer)
    )
    assert (layer.scaling, list(layer.active_adapters)) == (
        {"lcm": 1.0, "pixel_art": 0.5},
        ["lcm", "pixel_art"],
    )
    assert (encoder.scaling, list(encoder.active_adapters)) == ({"pixel_art": 0.5}, ["pixel_art"])
    pipe.scheduler = EulerDiscreteScheduler.from_config(scheduler.config)
    lcm.attach(pipe, {"lcm": 0.8})
    assert isinstance(pipe.scheduler, LCMScheduler)
    assert layer.scaling == {"lcm": 0.8, "pixel_art": 0.5}
    lcm.detach(pipe)
    assert everything(pipe) == before


def test_one_of_two_adapters_with_recipes_plays(adapter: Path, tmp_path: Path) -> None:
    second = write_adapter(
        tmp_path / "second",
        build_sd,
        make_recipe(scheduler_config={"original_inference_steps": 40}),
        scale=0.2,
    )
    pipe = build_sd()
    before = everything(pipe)
    with pytest.raises(ValueError, match=r"each have a recipe.*weight 0"):
        lcm.attach(pipe, {adapter: 1.0, second: 1.0})
    assert everything(pipe) == before
    lcm.attach(pipe, adapter)
    with pytest.raises(ValueError, match="attached before, has a recipe of its own"):
        lcm.attach(pipe, second, adapter_name="forty")
    lcm.attach(pipe, {"lcm": 0.0, second: 1.0}, adapter_name="forty")
    assert pipe.scheduler.config.original_inference_steps == 40
    picture = draw(pipe, **SIZE, **FEW)
    lcm.attach(pipe, {"lcm": 1.0, "forty": 0.0})
    assert pipe.scheduler.config.original_inference_steps == 50
    fresh = build_sd()
    lcm.attach(fresh, second)
    np.testing.assert_allclose(picture, draw(fresh, **SIZE, **FEW), atol=1e-5)
    lcm.detach(pipe)
    assert everything(pipe) == before


def test_an_error_in_the_second_adapter_undoes_the_first(
    adapter: Path, style: Path, tmp_path: Path
) -> None:
    state = load_file(style)
    state["lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight"] = (
        torch.zeros(2, 99)
    )
    save_file(state, tmp_path / "broken.safetensors")
    pipe = build_sd()
    before = everything(pipe)
    with pytest.raises(ValueError, match=r"broken\.safetensors does not fit"):
        lcm.attach(pipe, {adapter: 1.0, tmp_path / "broken.safetensors": 1.0})
    assert everything(pipe) == before and not hasattr(pipe, "_lcm_attachment")
    lcm.attach(pipe, adapter)
    before = everything(pipe)
    with pytest.raises(ValueError, match=r"broken\.safetensors does not fit"):
        lcm.attach(pipe, {style: 1.0, tmp_path / "broken.safetensors": 1.0})
    assert everything(pipe) == before


def test_adapters_of_others_outlive_detaching(adapter: Path, style: Path) -> None:
    pipe = build_sd()
    pipe.load_lora_weights(style.parent, weight_name=style.name, adapter_name="early")
    pipe.set_adapters(["early"], [0.3])
    lcm.attach(pipe, {adapter: 1.0, "early": 0.9})
    pipe.load_lora_weights(style.parent, weight_name=style.name, adapter_name="late")
    lcm.detach(pipe)
    for model in ("unet", "text_encoder"):
        assert set(pipe.get_list_adapters()[model]) == {"early", "late"}
    assert set(pipe.get_active_adapters()) == {"early", "late"}
    for model in (pipe.unet, pipe.text_encoder):
        layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
        assert layers and all(
            layer.scaling == {"early": pytest.approx(0.3), "late": 1.0} for layer in layers
        )
