"""Warnings while a pipeline with an adapter is called: each once, with its fix, and none for calls
that are right.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
from diffusers import (
    EulerDiscreteScheduler,
    LCMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionXLImg2ImgPipeline,
)

import lcm
from tests.support.adapters import make_recipe
from tests.support.pipelines import FEW, MASK, PICTURE, SIZE, draw, said, stock
from tests.support.worlds import build_sd, build_sdxl

PHASES = {
    "scheduler": "DDIMScheduler",
    "scheduler_config": {"timestep_spacing": "trailing"},
    "num_inference_steps": [4],
}


@pytest.mark.parametrize(
    ("recipe", "calls"),
    [
        (
            make_recipe(),
            [
                {"num_inference_steps": n, "guidance_scale": g}
                for n, g in ((1, 0.0), (4, 1.0), (5, 1.5), (8, 2.0))
            ],
        ),
        (make_recipe(guidance_scale=7.5), [{"num_inference_steps": 4, "guidance_scale": 7.5}]),
        (make_recipe(**PHASES), [{"num_inference_steps": 4, "guidance_scale": 1.0}]),
        (
            make_recipe(scheduler="TCDScheduler", scheduler_config={}, eta=0.3),
            [{**FEW, "eta": 0.3}],
        ),
    ],
    ids=["lcm", "guided", "phases", "tcd"],
)
def test_calls_that_are_right_are_silent(
    adapter: Path, recipe: lcm.Recipe, calls: list[dict[str, Any]]
) -> None:
    pipe = build_sd()
    lcm.attach(pipe, adapter, recipe=recipe)
    assert [said(pipe, **SIZE, **call) for call in calls] == [[]] * len(calls)


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, {**FEW, "guidance_scale": 7.5}, r"guidance_scale=7\.5 .* pass guidance_scale=1\.0"),
        ({"guidance_scale": 3.0}, {**FEW, "guidance_scale": 7.5}, r"pass guidance_scale=3\.0"),
        (
            {},
            {**FEW, "num_inference_steps": 20},
            "20 steps: .* 1, 2, 3, 4, 6, 8, .* pass num_inference_steps=4",
        ),
        (
            PHASES,
            {**FEW, "num_inference_steps": 3},
            "3 steps: .* draw in 4, .* pass num_inference_steps=4",
        ),
        (
            {"scheduler": "TCDScheduler", "scheduler_config": {}, "eta": 0.3},
            {**FEW, "eta": 0.0},
            r"pass eta=0\.3",
        ),
        (
            {},
            {**FEW, "negative_prompt": ["blurry"]},
            r"negative_prompt has no effect at guidance_scale=1\.0.* such as 1\.5",
        ),
    ],
)
def test_what_ruins_pictures_is_said_once_per_attach(
    adapter: Path, changes: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    pipe, recipe = build_sd(), make_recipe(**changes)
    for _ in range(2):
        lcm.attach(pipe, adapter, recipe=recipe)
        (text,) = said(pipe, **SIZE, **options)
        assert re.search(message, text)
        assert said(pipe, **SIZE, **options) == []
        lcm.detach(pipe)
    assert said(pipe, **SIZE, **options) == []


def test_the_warning_points_at_the_call(adapter: Path) -> None:
    pipe = build_sd()
    lcm.attach(pipe, adapter)
    with pytest.warns(UserWarning, match="guidance_scale") as caught:
        pipe("a star", **SIZE, num_inference_steps=1, guidance_scale=7.5, output_type="np")
    assert caught[0].filename == __file__


def test_another_scheduler_is_said_and_its_fix_works(adapter: Path) -> None:
    pipe, right = build_sd(), build_sd()
    for each in (pipe, right):
        lcm.attach(
            each,
            adapter,
            recipe=make_recipe(
                scheduler_config={"original_inference_steps": 40, "timestep_scaling": 5.0}
            ),
        )
    for wrong in (EulerDiscreteScheduler, LCMScheduler):
        lcm.attach(pipe, {"lcm": 1.0})  # a new round of warnings
        config = (
            pipe.scheduler.config
            if wrong is EulerDiscreteScheduler
            else build_sd().scheduler.config
        )
        pipe.scheduler = wrong.from_config(config)
        (text,) = said(pipe, **SIZE, **FEW)
        assert f"scheduler, {wrong.__name__}, is not as the adapter was trained for" in text
        exec(text.partition("set it back: ")[2], {"pipe": pipe, "diffusers": diffusers})
        assert said(pipe, **SIZE, **FEW) == []
        assert np.array_equal(draw(pipe, **SIZE, **FEW), draw(right, **SIZE, **FEW))


@pytest.mark.parametrize(
    ("pipeline_class", "build", "file", "options"),
    [
        (StableDiffusionImg2ImgPipeline, build_sd, "adapter", {"image": PICTURE}),
        (
            StableDiffusionInpaintPipeline,
            build_sd,
            "adapter",
            {**SIZE, "image": PICTURE, "mask_image": MASK},
        ),
        (StableDiffusionXLImg2ImgPipeline, build_sdxl, "sdxl_adapter", {"image": PICTURE}),
    ],
)
def test_image_to_image_without_a_step_is_refused_with_the_number_that_works(
    request: pytest.FixtureRequest,
    pipeline_class: Any,
    build: Any,
    file: str,
    options: dict[str, Any],
) -> None:
    pipe = stock(pipeline_class, build())
    lcm.attach(pipe, request.getfixturevalue(file))
    few = {**options, "guidance_scale": 1.0}
    for strength, steps, enough, higher in (
        (0.2, 4, 5, 0.25),
        (0.6, 1, 2, 1.0),
        (0.3, 3, 4, 0.34),
        (0.02, 49, 50, 0.03),
    ):
        with pytest.raises(
            ValueError,
            match=f"{steps} steps at strength {strength} .* num_inference_steps={enough} or more, "
            f"or strength {higher} or more",
        ):
            draw(pipe, **few, num_inference_steps=steps, strength=strength)
        for right in ((enough, strength), (steps, higher)):
            assert len(draw(pipe, **few, num_inference_steps=right[0], strength=right[1])) == 1
    for nothing in (0.0, 0.01):  # of which 100 steps would be enough, and there are 50
        with pytest.raises(ValueError, match=r"no picture; pass strength 0\.25 or more"):
            draw(pipe, **few, num_inference_steps=4, strength=nothing)
    # 20 steps are too many, but at this strength 4 are made
    assert said(pipe, **options, num_inference_steps=20, strength=0.2, guidance_scale=1.0) == []
    assert len(said(pipe, **options, num_inference_steps=20, strength=1.0, guidance_scale=1.0)) == 1
