"""A recipe is data: whatever it says, it is refused in one line with the pipeline as it was, or it
is attached and draws.
"""

from __future__ import annotations

import json
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

import lcm
from lcm.adapter.names import WEIGHTS_NAME
from lcm.adapter.recipe import RECIPE_KEY, Recipe
from lcm.adapter.scheduler_values import VALUES as SCHEDULER_VALUES
from lcm.inference import SCHEDULERS
from tests.support.adapters import everything, make_recipe
from tests.support.hostile import VALUES, is_one_line, one_layer, with_header, with_value
from tests.support.pipelines import SIZE, draw
from tests.support.worlds import build_sd

FIELDS = [(entry.name,) for entry in fields(Recipe)]
ENTRIES = [("scheduler_config", name) for name in SCHEDULER_VALUES]
ARGUMENTS = [
    ("scheduler_config", name)
    for name in ("config", "return_unused_kwargs", "pretrained_model_name_or_path", "self", "dtype")
]
"""Arguments of the function that makes schedulers."""


def state_of(pipe: Any) -> list[torch.Tensor]:
    return [value.clone() for value in pipe.unet.state_dict().values()]


@pytest.fixture(scope="module")
def layer(adapter: Path) -> dict[str, torch.Tensor]:
    return one_layer(adapter)


def test_a_recipe_is_refused_with_the_pipeline_as_it_was_or_it_draws(
    layer: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    pipe, recipe = build_sd(), make_recipe().to_json()
    before, tensors = everything(pipe), state_of(pipe)
    refused = drawn = 0
    for path in (*FIELDS, *ENTRIES, *ARGUMENTS):
        for name, value in VALUES.items():
            header = {RECIPE_KEY: with_value(recipe, path, value)}
            file = with_header(tmp_path / WEIGHTS_NAME, layer, header)
            try:
                found = lcm.attach(pipe, file)
            except ValueError as error:
                assert is_one_line(error), (path, name)
                assert str(error).startswith(str(file)), (path, name)
                refused += 1
                continue
            images = draw(pipe, **SIZE, num_inference_steps=1, guidance_scale=1.0)
            assert np.isfinite(images).all(), (path, name)
            assert found.call_defaults().num_inference_steps >= 1
            drawn += 1
            lcm.detach(pipe)
        assert everything(pipe) == before, path
    assert all(torch.equal(*pair) for pair in zip(tensors, state_of(pipe), strict=True))
    assert refused > 5 * drawn > 0


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_entry_that_a_scheduler_knows_has_a_rule(name: str) -> None:
    """So that none goes into the scheduler unseen."""
    assert set(getattr(diffusers, name)().config) - {"_use_default_values"} <= set(SCHEDULER_VALUES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prediction_type": "v_prediction"}, "says prediction_type 'v_prediction'.*'epsilon'"),
        ({"beta_end": 0.5}, "says beta_end 0.5, the scheduler of this pipeline 0.012"),
        ({"num_train_timesteps": 500}, "says num_train_timesteps 500, .* 1000"),
        ({"rescale_betas_zero_snr": True}, "divides by zero"),
        ({"original_inference_steps": 1001}, "LCMScheduler says"),
        ({"clip_sample": True}, "clip_sample is True, not false"),
        ({"thresholding": True}, "thresholding is True, not false"),
        ({"solver_order": 2}, "LCMScheduler has no 'solver_order'"),
    ],
)
def test_what_contradicts_the_base_model_is_named(
    layer: dict[str, torch.Tensor], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    recipe = json.loads(make_recipe().to_json())
    recipe["scheduler_config"].update(change)
    file = with_header(tmp_path / WEIGHTS_NAME, layer, {RECIPE_KEY: json.dumps(recipe)})
    pipe = build_sd()
    before = everything(pipe)
    with pytest.raises(ValueError, match=message) as caught:
        lcm.attach(pipe, file)
    assert is_one_line(caught.value)
    assert everything(pipe) == before


def test_a_recipe_made_in_python_is_held_to_the_same_rules(adapter: Path) -> None:
    for values in ({"eta": float("nan")}, {"num_inference_steps": []}, {"scheduler_config": None}):
        with pytest.raises(ValueError, match="of the recipe is"):
            make_recipe(**values)
    recipe, pipe = make_recipe(), build_sd()
    recipe.scheduler_config["beta_start"] = float("nan")
    before = everything(pipe)
    with pytest.raises(ValueError, match="beta_start is nan"):
        lcm.attach(pipe, adapter, recipe=recipe)
    assert everything(pipe) == before


def test_nothing_is_left_of_an_attach_that_failed_at_its_end(
    adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("watching failed")

    pipe = build_sd()
    before = everything(pipe)
    monkeypatch.setattr(sys.modules["lcm.inference.attach"], "join", fail)
    with pytest.raises(RuntimeError, match="watching failed"):
        lcm.attach(pipe, adapter)
    assert everything(pipe) == before
    with pytest.raises(ValueError, match="nothing to detach"):
        lcm.detach(pipe)


def test_unknown_fields_of_a_newer_version_are_ignored(
    layer: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    for value in ("[1, 2]", '{"deep": [[[]]]}', "null"):
        text = with_value(make_recipe().to_json(), ("of_a_newer_version",), value)
        file = with_header(tmp_path / WEIGHTS_NAME, layer, {RECIPE_KEY: text})
        assert lcm.read_recipe(file) == make_recipe()
