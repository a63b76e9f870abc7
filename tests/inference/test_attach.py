"""`lcm.attach` and `lcm.detach` on every stock pipeline: what stock diffusers does by hand, and
undone without a trace."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
)

import lcm
from tests.support.adapters import everything, make_recipe, stock_load
from tests.support.pipelines import BASE, FEW, assert_same_weights, draw, weights
from tests.support.schedules import SD_BETAS
from tests.support.stock_pipelines import PIPELINES
from tests.support.worlds import build_sd


def trace(pipe: Any) -> dict[str, Any]:
    """Everything else that attaching could leave behind."""
    return {
        **everything(pipe),
        "components": {name: id(part) for name, part in pipe.components.items()},
        "config": dict(pipe.config),
        "scheduler_config": dict(pipe.scheduler.config),
        "attributes": set(vars(pipe)),
        "of the unet": set(vars(pipe.unet)),
    }


@pytest.mark.parametrize("name", PIPELINES)
def test_attaching_is_loading_by_hand_and_detaching_leaves_no_trace(
    name: str, adapter: Path, sdxl_adapter: Path
) -> None:
    build, options = PIPELINES[name]
    pipe, file = build(), sdxl_adapter if name.startswith("sdxl") else adapter
    by_hand = copy.deepcopy(pipe)
    picture = draw(pipe, **options, **BASE)
    before = weights(pipe), trace(pipe)

    lcm.attach(pipe, file)
    stock_load(by_hand, file)
    by_hand.scheduler = LCMScheduler.from_config(by_hand.scheduler.config)
    assert [v for v in weights(by_hand) if "lora_A.default_0" in v]
    here = {key.replace(".lcm.", ".default_0."): value for key, value in weights(pipe).items()}
    assert_same_weights(here, weights(by_hand))
    few, steps = {**options, **FEW}, []
    attached = draw(
        pipe,
        **few,
        callback_on_step_end=lambda pipe, i, t, tensors: steps.append(int(t)) or tensors,
    )
    assert steps == [999, 499]
    assert np.array_equal(attached, draw(by_hand, **few))
    assert not np.allclose(attached, picture, atol=1e-3)

    lcm.detach(pipe)
    assert_same_weights(before[0], weights(pipe))
    assert trace(pipe) == before[1]
    assert np.array_equal(draw(pipe, **options, **BASE), picture)
    with pytest.raises(ValueError, match="nothing to detach"):
        lcm.detach(pipe)


@pytest.mark.parametrize(
    ("scheduler", "config", "kept"),
    [
        (
            EulerDiscreteScheduler,
            {"timestep_spacing": "leading", "steps_offset": 1},
            {"steps_offset": 1},
        ),
        (
            DPMSolverMultistepScheduler,
            {"use_karras_sigmas": True, "algorithm_type": "sde-dpmsolver++"},
            {},
        ),
        (
            PNDMScheduler,
            {"skip_prk_steps": True, "set_alpha_to_one": False},
            {"set_alpha_to_one": False},
        ),
        (DDIMScheduler, {"clip_sample": True, "thresholding": True}, {}),
        (DDIMScheduler, {"prediction_type": "v_prediction"}, {"prediction_type": "v_prediction"}),
    ],
)
def test_the_schedulers_of_community_models_give_way_to_that_of_the_adapter(
    adapter: Path, scheduler: Any, config: dict[str, Any], kept: dict[str, Any]
) -> None:
    pipe = build_sd()
    pipe.scheduler = scheduler(**SD_BETAS, **config)
    recipe = make_recipe(prediction_type=config.get("prediction_type", "epsilon"))
    lcm.attach(pipe, adapter, recipe=recipe)
    expected = {
        **SD_BETAS,
        **kept,
        "clip_sample": False,
        "thresholding": False,
        "original_inference_steps": 50,
    }
    assert isinstance(pipe.scheduler, LCMScheduler)
    assert {name: pipe.scheduler.config[name] for name in expected} == expected
    lcm.detach(pipe)
    assert type(pipe.scheduler) is scheduler
