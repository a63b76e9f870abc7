"""Calls of a pipeline with an adapter, and of those made from it, have the recipe's numbers where
the caller says nothing; what callers say wins, and all of it is gone after detaching.
"""

from __future__ import annotations

import copy
import gc
import inspect
import pickle
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoPipelineForImage2Image,
    DDIMScheduler,
    DiffusionPipeline,
    LCMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
)

import lcm
from lcm.adapter.names import WEIGHTS_NAME
from lcm.pipelines import FewStepStableDiffusionImg2ImgPipeline, FewStepStableDiffusionPipeline
from tests.support.adapters import everything, make_recipe
from tests.support.pipelines import FEW, PICTURE, SIZE, begin, draw, said, stock
from tests.support.stock_pipelines import PIPELINES
from tests.support.worlds import build_sd, build_sdxl

GUIDED = make_recipe(num_inference_steps=[2, 3], guidance_scale=1.5)
NOISY = make_recipe(num_inference_steps=[2], scheduler="TCDScheduler", scheduler_config={}, eta=0.4)
SHARING: dict[str, Callable[[Any], Any]] = {
    "from_pipe": StableDiffusionImg2ImgPipeline.from_pipe,
    "auto": AutoPipelineForImage2Image.from_pipe,
    "components": lambda pipe: stock(StableDiffusionImg2ImgPipeline, pipe),
    "ours": lambda pipe: stock(FewStepStableDiffusionImg2ImgPipeline, pipe),
}


def stated(recipe: lcm.Recipe) -> dict[str, Any]:
    return {"num_inference_steps": recipe.usual_steps, "guidance_scale": recipe.guidance_scale}


@pytest.mark.parametrize("name", PIPELINES)
def test_a_bare_call_is_the_call_with_the_numbers_of_the_recipe(
    name: str, adapter: Path, sdxl_adapter: Path
) -> None:
    build, options = PIPELINES[name]
    pipe, family = build(), "sdxl" if name.startswith("sdxl") else "sd"
    recipe = make_recipe(family, 32 if family == "sdxl" else 16, num_inference_steps=[1])
    lcm.attach(pipe, sdxl_adapter if family == "sdxl" else adapter, recipe=recipe)
    bare = draw(pipe, **options)
    assert np.array_equal(bare, draw(pipe, **options, **stated(recipe)))


def test_what_the_caller_says_wins_by_name_and_by_place(adapter: Path) -> None:
    pipe, by_hand = build_sd(), build_sd()
    lcm.attach(pipe, adapter, recipe=NOISY)
    by_hand.load_lora_weights(adapter, weight_name=WEIGHTS_NAME)
    by_hand.scheduler = copy.deepcopy(pipe.scheduler)
    noisy = {**SIZE, **stated(NOISY), "eta": 0.4}
    same: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (SIZE, noisy),
        ({**SIZE, "num_inference_steps": None, "guidance_scale": None}, noisy),
        ({**SIZE, "num_inference_steps": 3}, {**noisy, "num_inference_steps": 3}),
        ({**SIZE, "eta": 0.0, "guidance_scale": 2.0}, {**noisy, "eta": 0.0, "guidance_scale": 2.0}),
    ]
    for given, meant in same:
        assert np.array_equal(draw(pipe, **given), draw(by_hand, **meant))
    placed, named = (
        each(
            "a star",
            16,
            16,
            3,
            output_type="np",
            generator=torch.Generator().manual_seed(5),
            **more,
        ).images
        for each, more in ((pipe, {}), (by_hand, {"guidance_scale": 1.0, "eta": 0.4}))
    )
    assert np.array_equal(placed, named)
    assert inspect.signature(pipe.__call__) == inspect.signature(by_hand.__call__)
    with pytest.raises(TypeError, match="num_inference_steps"):
        pipe("a star", 16, 16, 3, num_inference_steps=4)


def numbers_of(pipe: Any) -> tuple[int, float]:
    """The steps and the guidance that a bare call goes about."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        begin(pipe, **SIZE)
    return len(pipe.scheduler.timesteps), pipe.guidance_scale


def test_no_other_pipeline_of_the_class_changes(adapter: Path) -> None:
    call, other, pipe = StableDiffusionPipeline.__call__, build_sd(), build_sd()
    lcm.attach(pipe, adapter)
    assert StableDiffusionPipeline.__call__ is call and type(other) is StableDiffusionPipeline
    assert isinstance(pipe, StableDiffusionPipeline)
    assert type(pipe).__name__ == "StableDiffusionPipeline"
    assert (numbers_of(pipe), numbers_of(other)) == ((4, 1.0), (50, 7.5))
    lcm.detach(pipe)
    assert type(pipe) is StableDiffusionPipeline
    assert numbers_of(pipe) == (50, 7.5)


def test_an_adapter_that_is_switched_off_leaves_the_call_as_it_is(adapter: Path) -> None:
    pipe = build_sd()
    own = pipe.scheduler
    lcm.attach(pipe, adapter)
    few, pipe.scheduler = pipe.scheduler, own
    pipe.load_lora_weights(adapter, weight_name=WEIGHTS_NAME, adapter_name="later")
    for turn in (
        lambda: pipe.set_adapters(["later"]),
        lambda: pipe.set_adapters(["lcm"], [0.0]),
        pipe.disable_lora,
    ):
        turn()
        assert numbers_of(pipe) == (50, 7.5)
    pipe.enable_lora()
    pipe.set_adapters(["lcm"])
    pipe.scheduler = few
    assert numbers_of(pipe) == (4, 1.0)


@pytest.mark.parametrize(
    ("how", "detached"),
    zip(SHARING, ("the first", "the second", "the second", "the first"), strict=True),
)
def test_pipelines_of_one_u_net_have_one_adapter(adapter: Path, how: str, detached: str) -> None:
    pipe, own = build_sd(), build_sd().scheduler
    before = everything(pipe)
    original = pipe.scheduler
    lcm.attach(pipe, adapter)
    other = SHARING[how](pipe)
    lcm.attach(other, {"lcm": 0.9}, recipe=GUIDED)
    assert other.scheduler is pipe.scheduler is not original
    assert lcm.inference.current_recipe(pipe) == lcm.inference.current_recipe(other) == GUIDED
    image = {"image": PICTURE, "strength": 1.0}
    assert np.array_equal(draw(other, **image), draw(other, **image, **stated(GUIDED)))
    assert len(said(other, **image, num_inference_steps=2, guidance_scale=7.5)) == 1
    third = stock(StableDiffusionPipeline, pipe, scheduler=own)  # with a scheduler of its own
    lcm.detach(pipe if detached == "the first" else other)
    assert everything(pipe) == before
    assert other.scheduler is original and third.scheduler is own
    for each in (pipe, other, third):
        assert not [name for name in vars(each) if name.startswith("_lcm")]
        assert type(each).__mro__[1].__module__ != "lcm.inference.watch"
        with pytest.raises(ValueError, match="nothing to detach"):
            lcm.detach(each)


def test_a_pipeline_that_was_made_before_joins_by_the_name_of_the_adapter(adapter: Path) -> None:
    pipe = build_sd()
    other = StableDiffusionImg2ImgPipeline.from_pipe(pipe)
    own = other.scheduler = DDIMScheduler.from_config(other.scheduler.config)
    lcm.attach(pipe, adapter, recipe=GUIDED)
    assert other.scheduler is own
    assert lcm.attach(other, {"lcm": 1.0}) == GUIDED
    image = {"image": PICTURE, "strength": 1.0}
    assert np.array_equal(draw(other, **image), draw(other, **image, **stated(GUIDED)))
    lcm.detach(pipe)
    assert other.scheduler is own and type(other) is StableDiffusionImg2ImgPipeline


@pytest.mark.parametrize(
    ("scheduler", "config", "most"),
    [
        ("LCMScheduler", {"original_inference_steps": 8}, 8),
        ("TCDScheduler", {"original_inference_steps": 8}, 8),
        ("DDIMScheduler", {"timestep_spacing": "trailing"}, 1000),
    ],
)
def test_more_steps_than_there_are_is_one_sentence_with_the_numbers_of_the_recipe(
    adapter: Path, scheduler: str, config: dict[str, Any], most: int
) -> None:
    recipe = make_recipe(scheduler=scheduler, scheduler_config=config)
    few = stock(FewStepStableDiffusionPipeline, build_sd())
    for pipe in (build_sd(), few):
        lcm.attach(pipe, adapter, recipe=recipe)
        with pytest.raises(
            ValueError,
            match=f"steps={most + 1} is more than the {most} steps .* draw in 1, 2, 3, 4, 6, 8; "
            "pass num_inference_steps=4$",
        ):
            pipe("a star", num_inference_steps=most + 1)
        for nonsense in (0, -1, 1.5, "4", True):
            with pytest.raises(ValueError, match="num_inference_steps must be a positive integer"):
                pipe("a star", num_inference_steps=nonsense)
    assert len(draw(few, **SIZE, num_inference_steps=min(most, 8))) == 1


def test_steps_by_their_times_are_left_alone(adapter: Path) -> None:
    pipe, seen = build_sd(), list[int]()
    lcm.attach(pipe, adapter)
    pipe.unet.register_forward_pre_hook(lambda module, args: seen.append(int(args[1])))
    draw(pipe, **SIZE, timesteps=[999, 499])
    assert seen == [999, 499]


def test_small_strengths_of_sdxl_say_what_is_enough(sdxl_adapter: Path) -> None:
    pipe = build_sdxl()
    lcm.attach(pipe, sdxl_adapter)
    other = StableDiffusionXLImg2ImgPipeline.from_pipe(pipe)
    with pytest.raises(
        ValueError, match=r"num_inference_steps=5 or more, or strength 0\.25 or more"
    ):
        draw(other, image=PICTURE, strength=0.2, num_inference_steps=4)


def test_the_pipelines_are_of_the_kind_that_is_asked_for() -> None:
    for nothing in ("x", None, StableDiffusionPipeline, build_sd().unet):
        with pytest.raises(ValueError, match="pass a pipeline of diffusers"):
            lcm.attach(nothing, "y")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"pass a pipeline of diffusers.*got 'x'"):
        lcm.detach("x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="this DiffusionPipeline has no"):
        lcm.attach(DiffusionPipeline(), "y")


def test_a_watched_pipeline_copies_pickles_saves_converts_and_is_freed(
    adapter: Path, tmp_path: Path
) -> None:
    pipe = build_sd()
    lcm.attach(pipe, adapter)
    picture, ruined = draw(pipe, **SIZE, **FEW), {**SIZE, **FEW, "guidance_scale": 7.5}
    for other in (copy.deepcopy(pipe), pickle.loads(pickle.dumps(pipe))):
        assert np.array_equal(draw(other, **SIZE, **FEW), picture)
        assert len(said(other, **ruined)) == 1  # its own round of warnings
        lcm.detach(other)
        assert other.get_list_adapters() == {}
    assert len(said(pipe, **ruined)) == 1
    assert np.array_equal(draw(pipe.to("cpu"), **SIZE, **FEW), picture)
    pipe.fuse_lora(components=["unet"])
    pipe.unload_lora_weights()
    pipe.save_pretrained(tmp_path)
    saved = DiffusionPipeline.from_pretrained(tmp_path, safety_checker=None)
    np.testing.assert_allclose(draw(saved, **SIZE, **FEW), picture, atol=1e-4)
    assert isinstance(saved.scheduler, LCMScheduler)
    reference = weakref.ref(pipe)
    gc.collect()
    gc.disable()
    try:
        del pipe
        assert reference() is None  # at once, and with it the memory of its networks
    finally:
        gc.enable()
