"""The few-step pipelines in the places of stock ones: their arguments by name and by place, their
loading, and numbers in refusals that work.
"""

from __future__ import annotations

import inspect
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    LCMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    TCDScheduler,
)

import lcm.pipelines
from lcm.inference.grid import check_strength, enough_steps, enough_strength
from lcm.pipelines import (
    FewStepStableDiffusionImg2ImgPipeline,
    FewStepStableDiffusionPipeline,
    FewStepStableDiffusionXLPipeline,
)
from tests.support.adapters import OF_EVERY_KIND, make_recipe, write_adapter
from tests.support.pipelines import FEW, PICTURE, SIZE, draw, stock
from tests.support.single_file import without_weights, write_single_file
from tests.support.worlds import build_sd, build_sdxl

OURS = [getattr(lcm.pipelines, name) for name in lcm.pipelines.__all__]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base as a folder, as a file, and as a folder without weights; an adapter for it."""
    root, pipe = tmp_path_factory.mktemp("world"), build_sd()
    pipe.save_pretrained(root / "sd")
    write_single_file(pipe, root / "sd.safetensors")
    without_weights(shutil.copytree(root / "sd", root / "config"))
    write_adapter(root, build_sd, make_recipe(num_inference_steps=[2]), targets=OF_EVERY_KIND)
    (root / "adapter").mkdir()
    shutil.move(root / "pytorch_lora_weights.safetensors", root / "adapter")
    return root


def test_arguments_by_place_are_those_of_the_stock_call() -> None:
    options = {"output_type": "np"}
    for ours, original, build, placed in (
        (FewStepStableDiffusionPipeline, StableDiffusionPipeline, build_sd, (16, 24, 2)),
        (FewStepStableDiffusionXLPipeline, StableDiffusionXLPipeline, build_sdxl, ("b", 16, 24, 2)),
    ):
        pipe = build()
        pictures = [
            each(
                "a star",
                *placed,
                generator=torch.Generator().manual_seed(0),
                guidance_scale=1.0,
                **options,
            ).images
            for each in (stock(ours, pipe), stock(original, pipe))
        ]
        assert pictures[0].shape == (1, 16, 24, 3)
        assert np.array_equal(*pictures)
    pipe = stock(FewStepStableDiffusionImg2ImgPipeline, build_sd())
    by_place = pipe("a star", PICTURE, 0.5, 2, seed=0, **options).images
    named = {"image": PICTURE, "strength": 0.5, "num_inference_steps": 2}
    assert np.array_equal(by_place, pipe("a star", seed=0, **named, **options).images)
    with pytest.raises(TypeError, match="strength is given twice"):
        pipe("a star", PICTURE, 0.5, strength=0.5)
    with pytest.raises(TypeError, match="arguments by position"):
        pipe("a star", *range(60))


@pytest.mark.parametrize("ours", OURS, ids=lambda ours: ours.__name__)
def test_every_argument_of_the_stock_call_has_its_place(ours: Any) -> None:
    names = list(inspect.signature(ours.stock_class.__call__).parameters)[2:]
    pipe = ours.__new__(ours)
    for count in (0, 3, len(names) - 1):
        assert list(ours._by_name(pipe, range(count), {})) == names[:count]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("steps", "num_inference_steps"),
        ("num_steps", "num_inference_steps"),
        ("inference", "num_inference_steps"),
        ("guidance", "guidance_scale"),
        ("cfg", "guidance_scale"),
        ("cfg_scale", "guidance_scale"),
        ("negative", "negative_prompt"),
        ("heigth", "height"),
    ],
)
def test_a_wrong_name_is_told_which_is_meant(name: str, meant: str) -> None:
    pipe = stock(FewStepStableDiffusionPipeline, build_sd())
    with pytest.raises(TypeError, match=f"has no argument '{name}'. Did you mean '{meant}'"):
        pipe("a star", **{name: 4})


def test_one_side_alone_stands_beside_the_pipelines_own() -> None:
    pipe = stock(FewStepStableDiffusionPipeline, build_sd())
    own = pipe.unet.config.sample_size * pipe.vae_scale_factor
    assert draw(pipe, height=2 * own, num_inference_steps=1).shape == (1, 2 * own, own, 3)
    for nonsense in (0, -8, "16", 16.0):
        with pytest.raises(ValueError, match="width must be a positive integer"):
            draw(pipe, width=nonsense)


@pytest.mark.parametrize("steps_of", [LCMScheduler, TCDScheduler])
@pytest.mark.parametrize("original", [50, 20, 1000])
def test_the_numbers_of_a_refusal_are_the_last_that_work(steps_of: Any, original: int) -> None:
    scheduler = steps_of(original_inference_steps=original)

    def works(steps: int, strength: float) -> bool:
        try:
            scheduler.set_timesteps(steps, strength=strength)
        except (ValueError, ZeroDivisionError):
            return False
        return True

    digits = 2 if original <= 100 else 4
    for steps, strength in (
        *((4, 0.02), (1, 0.02), (29, 0.57), (original, 1.0), (original + 1, 1.0), (4, 0.01)),
        *((7, 0.1), (1, 0.0), (original, 0.5)),
    ):
        if works(steps, strength):
            check_strength(scheduler, steps, strength)
            continue
        with pytest.raises(ValueError, match="pass ") as caught:
            check_strength(scheduler, steps, strength)
        advice = str(caught.value).partition("; pass ")[2]
        most = int(advice.split()[2]) if "at most" in advice else 0
        assert not works(most + 1, strength) and (most == 0 or works(most, strength))
        assert ("strength" in advice) == (steps <= original)
        if "strength" in advice:
            enough = float(advice.partition("strength ")[2].split()[0])
            assert works(steps, enough) and not works(steps, round(enough - 10**-digits, digits))


def test_what_is_enough_is_the_least_that_is_for_every_number() -> None:
    for of in range(1, 101):
        for steps in range(1, of + 1):
            enough = enough_strength(steps, of)
            assert int(of * enough) >= steps > int(of * round(enough - 0.01, 2))
    for strength in (*(n / 1000 for n in range(1, 1001)), 1e-5, 1 / 3, 0.7 - 0.4):
        enough = enough_steps(strength)
        assert enough is not None and int(enough * strength) >= 1 > int((enough - 1) * strength)
    assert enough_steps(0.0) is enough_steps(1e-300) is enough_steps(float("nan")) is None


def test_a_base_is_loaded_as_from_pretrained_would(world: Path) -> None:
    load = FewStepStableDiffusionPipeline.from_pretrained_with_adapter
    vae = AutoencoderKL.from_pretrained(world / "sd", subfolder="vae")
    pipe = load(world / "sd", world / "adapter", vae=vae, safety_checker=None)
    assert pipe.vae is vae
    assert pipe.unet.dtype == torch.float32
    half = load(world / "sd", world / "adapter", torch_dtype=torch.bfloat16, device="cpu")
    assert half.unet.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="device: this machine has no"):
        load(world / "sd", world / "adapter", device="tpu")
    with pytest.raises((OSError, ValueError), match="variant"):
        load(world / "sd", world / "adapter", variant="none")


@pytest.mark.parametrize(
    "ours", [FewStepStableDiffusionPipeline, FewStepStableDiffusionImg2ImgPipeline]
)
def test_a_base_may_be_a_single_file(world: Path, ours: Any) -> None:
    load = ours.from_pretrained_with_adapter
    file, config = world / "sd.safetensors", world / "config"
    vae = AutoencoderKL.from_pretrained(world / "sd", subfolder="vae")
    pipe = load(
        file,
        world / "adapter",
        base_config=config,
        vae=vae,
        requires_safety_checker=False,
    )
    assert type(pipe).__name__ == ours.__name__ and pipe.vae is vae
    assert not pipe.config.requires_safety_checker
    options = SIZE if ours is FewStepStableDiffusionPipeline else {"image": PICTURE}
    expected = load(world / "sd", world / "adapter")
    np.testing.assert_allclose(draw(pipe, **options), draw(expected, **options), atol=1e-5)
    with pytest.raises(TypeError, match=r"there is no option 'variant_'\. Did you mean 'variant'"):
        load(file, world / "adapter", base_config=config, variant_="x")
    with pytest.raises(TypeError, match="Did you mean 'weight'"):
        load(file, world / "adapter", base_config=config, wieght=0.5)
    if ours is not FewStepStableDiffusionPipeline:
        with pytest.raises(ValueError, match=r"^image is missing; pass one picture"):
            pipe("red")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load(world / "nothing.safetensors", world / "adapter")


def test_a_negative_prompt_without_effect_is_said_of_ours_too(world: Path) -> None:
    pipe = stock(FewStepStableDiffusionPipeline, build_sd())
    pipe.attach(world / "adapter")
    with pytest.warns(UserWarning, match="negative_prompt has no effect"):
        draw(pipe, **SIZE, negative_prompt="blue", num_inference_steps=1)
    pipe.attach({"lcm": 1.0})
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        draw(pipe, **SIZE, **{**FEW, "guidance_scale": 1.5}, negative_prompt="blue")
