"""The teacher makes the first steps of a call, guided and without the adapter, and the adapter the
others. It is held against the same by hand, in stock diffusers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import LCMScheduler, StableDiffusionPAGPipeline
from torch import Tensor

import lcm
from lcm.adapter.lora import lora_modules
from lcm.adapter.names import WEIGHTS_NAME
from tests.support.adapters import make_recipe
from tests.support.pipelines import SIZE, begin, draw, said, stock
from tests.support.stock_pipelines import PIPELINES
from tests.support.worlds import build_sd

TEACHER = 6.0
STEPS = 3


def recipe_for(name: str, **changes: Any) -> lcm.Recipe:
    family, width = ("sdxl", 32) if name.startswith("sdxl") else ("sd", 16)
    values = {"trained_guidance_scale": [TEACHER, TEACHER], "num_inference_steps": [STEPS]}
    return make_recipe(family, width, **{**values, **changes})


def by_hand(pipe: Any, folder: Path, recipe: lcm.Recipe, guidance: float) -> dict[str, Any]:
    """Loads the adapter with stock diffusers, switched off; the arguments of a guided call that
    switches it on after a step. From then on the two halves are what `guidance` makes of them.
    """
    pipe.load_lora_weights(folder, weight_name=WEIGHTS_NAME)
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config, **recipe.scheduler_config)
    pipe.disable_lora()

    def combine(unet: Any, args: Any, output: Any) -> Any:
        away, to = output[0].chunk(2)
        return (torch.cat([away + guidance * (to - away)] * 2),)

    def after(pipe: Any, step: int, time: Any, tensors: Any) -> Any:
        if step == 0:
            pipe.enable_lora()
            pipe.unet.register_forward_hook(combine)
        return tensors

    return {"guidance_scale": TEACHER, "callback_on_step_end": after}


@pytest.mark.parametrize(
    ("name", "guidance"),
    [*((name, 1.0) for name in PIPELINES), ("sd inpaint 9", 1.5), ("sdxl controlnet", 1.5)],
)
def test_it_is_what_stock_diffusers_draws_when_the_adapter_is_switched_by_hand(
    name: str, guidance: float, adapter: Path, sdxl_adapter: Path
) -> None:
    build, options = PIPELINES[name]
    recipe = recipe_for(name)
    folder = sdxl_adapter if recipe.family == "sdxl" else adapter
    hand = build()
    more = by_hand(hand, folder, recipe, guidance)
    expected = draw(hand, **{**options, "num_inference_steps": STEPS, **more})
    pipe = build()
    lcm.attach(pipe, folder, recipe=recipe, teacher_first_steps=1)
    options = {**options, "num_inference_steps": STEPS, "guidance_scale": guidance}
    found = draw(pipe, **options)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    lcm.attach(pipe, {"lcm": 1.0}, teacher_first_steps=0)
    assert np.abs(draw(pipe, **options) - expected).max() > 1e-3


def test_two_steps_of_the_teacher_and_one_of_the_adapter_are_three_predictions(
    adapter: Path,
) -> None:
    """The U-Net and the scheduler alone, called as the papers write guidance."""
    recipe = recipe_for("sd")
    pipe = build_sd()
    lcm.attach(pipe, adapter, recipe=recipe, teacher_first_steps=2)
    found = latents_of(pipe)

    pipe = build_sd()
    to, away = pipe.encode_prompt("a red star", "cpu", 1, True, "a blue ring")
    scheduler = LCMScheduler.from_config(pipe.scheduler.config, **recipe.scheduler_config)
    scheduler.set_timesteps(STEPS)
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(1, 4, 8, 8, generator=generator)
    with torch.no_grad():
        for step, t in enumerate(scheduler.timesteps):
            if step == 2:
                pipe.load_lora_weights(adapter, weight_name=WEIGHTS_NAME)
            predicted, unguided = (pipe.unet(x, t, text)[0] for text in (to, away))
            if step < 2:
                predicted = unguided + TEACHER * (predicted - unguided)
            x = scheduler.step(predicted, t, x, generator=generator)[0]
    # one row at a time here, two there
    torch.testing.assert_close(found, x, atol=3e-4, rtol=1e-3)


def latents_of(pipe: Any) -> Tensor:
    """Of a negative prompt, which counts in the steps of the teacher."""
    found: Tensor = pipe(
        "a red star",
        negative_prompt="a blue ring",
        generator=torch.Generator().manual_seed(5),
        output_type="latent",
        num_inference_steps=STEPS,
        **SIZE,
    ).images
    return found


@contextmanager
def seen(pipe: Any) -> Iterator[list[tuple[int, bool]]]:
    """Of every call of the U-Net the rows, and whether the adapter is on."""
    calls: list[tuple[int, bool]] = []

    def note(unet: Any, args: Any, kwargs: Any) -> None:
        layer = next(iter(lora_modules(unet).values()))
        calls.append((len(args[0]), float(layer.scaling["lcm"]) != 0))

    inner = pipe.unet.conv_in.register_forward_pre_hook(lambda _, args: note(pipe.unet, args, {}))
    yield calls
    inner.remove()


GUIDED = [(2, False), (1, True), (1, True)]


@pytest.mark.parametrize(
    ("changes", "call", "expected"),
    [
        ({}, {}, GUIDED),
        ({}, {"guidance_scale": 2.0}, [(2, False), (2, True), (2, True)]),
        # no guidance was trained with: there is none in the teacher's step
        ({"trained_guidance_scale": [1.0, 1.0]}, {}, [(1, False), (1, True), (1, True)]),
        # guidance was left to the pipeline, which is the same in all steps
        (
            {"trained_guidance_scale": [1.0, 1.0], "guidance_scale": 4.0},
            {},
            [(2, False), (2, True), (2, True)],
        ),
        ({"trained_guidance_scale": []}, {}, GUIDED),
        ({"trained_guidance_scale": [2.0, 9.0]}, {}, GUIDED),
    ],
    ids=str,
)
def test_steps_of_the_adapter_cost_what_their_guidance_asks_for(
    changes: dict[str, Any],
    call: dict[str, Any],
    expected: list[tuple[int, bool]],
    adapter: Path,
) -> None:
    pipe = build_sd()
    lcm.attach(pipe, adapter, 0.7, recipe=recipe_for("sd", **changes), teacher_first_steps=1)
    with seen(pipe) as calls:
        draw(pipe, **SIZE, **call)
    assert calls == expected
    weights = {float(layer.scaling["lcm"]) for layer in lora_modules(pipe.unet).values()}
    assert len(weights) == 1 and 0 not in weights


def test_nothing_of_it_is_left_after_a_call_that_broke_off_or_after_detaching(
    adapter: Path, style: Path
) -> None:
    pipe = build_sd()
    before = draw(pipe, **SIZE, num_inference_steps=2)
    lcm.attach(pipe, {adapter: 1.0, style: 0.5}, recipe=recipe_for("sd"))
    plain = draw(pipe, **SIZE)
    lcm.attach(pipe, {"lcm": 1.0}, teacher_first_steps=1)
    first = draw(pipe, **SIZE)
    assert np.abs(first - plain).max() > 1e-3
    begin(pipe, **SIZE)  # an exception after the first step
    pipe.unet.mid_block.register_forward_pre_hook(fail_once())
    with pytest.raises(ArithmeticError):
        draw(pipe, **SIZE)
    assert np.array_equal(draw(pipe, **SIZE), first)
    # a weight alone leaves it as it is; disabled, the adapter takes its teacher with it
    lcm.attach(pipe, {"lcm": 1.0})
    assert np.array_equal(draw(pipe, **SIZE), first)
    lcm.attach(pipe, {"lcm": 1.0}, teacher_first_steps=0)
    assert np.array_equal(draw(pipe, **SIZE), plain)
    lcm.detach(pipe)
    assert np.array_equal(draw(pipe, **SIZE, num_inference_steps=2), before)
    assert not pipe.unet._forward_pre_hooks and not pipe.unet._forward_hooks


def fail_once() -> Any:
    calls: list[int] = []

    def fail(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise ArithmeticError

    return fail


def test_calls_are_watched_by_what_the_caller_says(adapter: Path) -> None:
    pipe = build_sd()
    lcm.attach(pipe, adapter, recipe=recipe_for("sd"), teacher_first_steps=1)
    # the teacher is guided, so the negative prompt counts
    assert said(pipe, **SIZE, negative_prompt="a blue ring") == []
    (warning,) = said(pipe, **SIZE, guidance_scale=5.0)
    assert "guidance_scale=5.0 ruins" in warning


def test_what_cannot_be_is_refused_and_changes_nothing(adapter: Path) -> None:
    pipe = build_sd()
    recipe = recipe_for("sd")
    for wrong in (-1, 1.0, True, "1", 1001):
        with pytest.raises(ValueError, match="teacher_first_steps must be a whole number"):
            lcm.attach(pipe, adapter, recipe=recipe, teacher_first_steps=wrong)  # type: ignore[arg-type]
    assert not lora_modules(pipe.unet)
    pag = stock(StableDiffusionPAGPipeline, pipe)
    with pytest.raises(ValueError, match="not with StableDiffusionPAGPipeline"):
        lcm.attach(pag, adapter, recipe=recipe, teacher_first_steps=1)
    lcm.attach(pipe, adapter, recipe=recipe, teacher_first_steps=2)
    for steps in (1, 2):
        with pytest.raises(ValueError, match=r"leaves the adapter none.*num_inference_steps=3"):
            draw(pipe, **SIZE, num_inference_steps=steps)
    with pytest.raises(ValueError, match="an engine draws requests"):
        lcm.Engine(pipe)
    pipe.fuse_lora(components=["unet"])
    with pytest.raises(ValueError, match="unfuse_lora"):
        draw(pipe, **SIZE)
