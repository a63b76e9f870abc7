"""What was trained from an earlier timestep begins there, wherever it is drawn."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler

import lcm
from lcm import Request
from lcm.adapter.names import WEIGHTS_NAME
from lcm.diffusion.grid import steps_of_call
from lcm.inference import make_scheduler
from lcm.outputs.validation import GridSpec, draw_latents, said_to
from lcm.pipelines import FewStepStableDiffusionPipeline
from tests.support.adapters import make_recipe
from tests.support.pipelines import SIZE, draw, stock
from tests.support.stock_pipelines import PIPELINES
from tests.support.worlds import build_sd

FROM = 699
TIMES = {1: [699], 2: [699, 359], 4: [699, 539, 359, 179]}
"""Those of `LCMScheduler` at a strength of 0.7."""


def recipe_for(family: str = "sd", **changes: Any) -> lcm.Recipe:
    values = {"num_inference_steps": [*TIMES], "first_timestep": FROM}
    return make_recipe(family, 32 if family == "sdxl" else 16, **{**values, **changes})


def by_hand(adapter: Path, recipe: lcm.Recipe) -> Any:
    pipe = build_sd()
    pipe.load_lora_weights(adapter, weight_name=WEIGHTS_NAME)
    pipe.scheduler = make_scheduler(pipe.scheduler.config, recipe)
    return pipe


@pytest.mark.parametrize("steps", TIMES)
def test_the_times_are_those_of_the_stock_scheduler_below_a_strength(steps: int) -> None:
    stock_scheduler = LCMScheduler()
    stock_scheduler.set_timesteps(steps, strength=0.7)
    assert steps_of_call(steps, FROM, stock_scheduler.config) == {"timesteps": TIMES[steps]}
    assert stock_scheduler.timesteps.tolist() == TIMES[steps]


def test_a_timestep_between_those_of_the_grid_is_one_more(adapter: Path) -> None:
    assert steps_of_call(2, 705, {}) == {"timesteps": [705, 359]}
    assert steps_of_call(1, 5, {}) == {"timesteps": [5]}
    with pytest.raises(ValueError, match=r"2 are left from 25 on; pass 1\.\.2"):
        steps_of_call(3, 25, {})
    pipe = build_sd()
    lcm.attach(pipe, adapter, recipe=recipe_for(first_timestep=25))
    with pytest.raises(ValueError, match=r"2 are left from 25 on; pass 1\.\.2"):
        draw(pipe, **SIZE, num_inference_steps=4)


@pytest.mark.parametrize("steps", TIMES)
@pytest.mark.parametrize("name", PIPELINES)
def test_a_call_from_text_alone_begins_there(
    name: str, steps: int, adapter: Path, sdxl_adapter: Path
) -> None:
    """As the same call does that is told the timesteps; one from a picture begins where its
    strength says.
    """
    build, options = PIPELINES[name]
    family = "sdxl" if name.startswith("sdxl") else "sd"
    folder = sdxl_adapter if family == "sdxl" else adapter
    usual, lower = build(), build()
    lcm.attach(usual, folder, recipe=recipe_for(family, first_timestep=None))
    lcm.attach(lower, folder, recipe=recipe_for(family))
    asked = {**options, "num_inference_steps": steps}
    names = inspect.signature(type(build()).__call__).parameters
    if "timesteps" in names and "strength" not in names:
        told = draw(usual, **options, timesteps=TIMES[steps])
        assert np.abs(told - draw(usual, **asked)).max() > 1e-3
        assert np.array_equal(draw(lower, **asked), told)
        assert np.array_equal(
            draw(lower, **options, timesteps=[799]), draw(usual, **options, timesteps=[799])
        )
    else:
        assert np.array_equal(draw(lower, **asked), draw(usual, **asked))


def test_our_pipeline_an_engine_and_a_grid_begin_there_too(adapter: Path) -> None:
    recipe = recipe_for()
    hand = by_hand(adapter, recipe)
    expected = draw(hand, **SIZE, guidance_scale=1.0, timesteps=TIMES[2])
    ours = stock(FewStepStableDiffusionPipeline, build_sd())
    ours.attach(adapter, recipe=recipe)
    assert np.array_equal(draw(ours, **SIZE, num_inference_steps=2), expected)
    pipe = build_sd()
    lcm.attach(pipe, adapter, recipe=recipe)
    (result,) = lcm.serve(pipe, [Request("a red star", 5, 2, **SIZE)])
    assert np.abs(np.asarray(result.image) / 255 - expected[0]).max() <= 1 / 255
    spec = GridSpec(["a red star"], [2], 5, 16, 1.0, first_timestep=FROM)
    latents = draw_latents(hand, said_to(hand, "a red star", spec), spec, 2)
    others = {"generator": torch.Generator().manual_seed(5), "output_type": "latent", **SIZE}
    told = hand("a red star", guidance_scale=1.0, timesteps=TIMES[2], **others).images
    assert torch.equal(latents, told)


def test_another_scheduler_and_an_adapter_that_is_off_begin_as_ever(adapter: Path) -> None:
    pipe = build_sd()
    lcm.attach(pipe, adapter, recipe=recipe_for())
    one = {**SIZE, "num_inference_steps": 1, "guidance_scale": 1.0}
    pipe.disable_lora()
    bare = build_sd()
    bare.scheduler = make_scheduler(bare.scheduler.config, recipe_for())
    assert np.array_equal(draw(pipe, **one), draw(bare, **one))
    pipe.enable_lora()
    for each in (pipe, bare):  # which takes no timesteps
        each.scheduler = DDIMScheduler.from_config(each.scheduler.config)
    bare.load_lora_weights(adapter, weight_name=WEIGHTS_NAME)
    with pytest.warns(UserWarning, match="is not as the adapter was trained"):
        assert np.array_equal(draw(pipe, **one), draw(bare, **one))


@pytest.mark.parametrize("value", [0, 1000, 699.5, "699", True])
def test_a_recipe_says_a_timestep(value: Any) -> None:
    with pytest.raises(ValueError, match="first_timestep of the recipe"):
        dataclasses.replace(recipe_for(), first_timestep=value)
