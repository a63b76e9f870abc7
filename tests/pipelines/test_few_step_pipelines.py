"""The few-step pipelines that begin with a picture, and one seed per picture on all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from PIL import Image

import lcm
from lcm.pipelines import (
    FewStepStableDiffusionImg2ImgPipeline,
    FewStepStableDiffusionInpaintPipeline,
    FewStepStableDiffusionPipeline,
    FewStepStableDiffusionXLImg2ImgPipeline,
    FewStepStableDiffusionXLInpaintPipeline,
    FewStepStableDiffusionXLPipeline,
)
from lcm.pipelines.few_step_image import for_every_image
from tests.support.adapters import OF_EVERY_KIND, make_recipe, write_adapter
from tests.support.pipelines import MASK, PICTURE, SIZE, nine_channels, stock
from tests.support.worlds import build_sd, build_sdxl

IMAGE: dict[str, Any] = {"image": PICTURE, "strength": 0.6}
INPAINT: dict[str, Any] = {**SIZE, **IMAGE, "mask_image": MASK}
PIPELINES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "sd": (FewStepStableDiffusionPipeline, build_sd, SIZE),
    "sd img2img": (FewStepStableDiffusionImg2ImgPipeline, build_sd, IMAGE),
    "sd inpaint": (FewStepStableDiffusionInpaintPipeline, build_sd, INPAINT),
    "sd inpaint 9": (
        FewStepStableDiffusionInpaintPipeline,
        nine_channels,
        {**INPAINT, "strength": 1.0},
    ),
    "sdxl": (FewStepStableDiffusionXLPipeline, build_sdxl, SIZE),
    "sdxl img2img": (FewStepStableDiffusionXLImg2ImgPipeline, build_sdxl, IMAGE),
    "sdxl inpaint": (FewStepStableDiffusionXLInpaintPipeline, build_sdxl, INPAINT),
}


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Path]:
    sd, sdxl = tmp_path_factory.mktemp("sd"), tmp_path_factory.mktemp("sdxl")
    sd_adapter = write_adapter(sd, build_sd, make_recipe(), targets=OF_EVERY_KIND)
    return {
        build_sd: sd_adapter,
        nine_channels: sd_adapter,
        build_sdxl: write_adapter(sdxl, build_sdxl, make_recipe("sdxl", 32), targets=OF_EVERY_KIND),
    }


def draw(pipe: Any, prompt: Any = "a red star", **options: Any) -> np.ndarray:
    images: np.ndarray = pipe(prompt, output_type="np", **options).images
    return images


@pytest.mark.parametrize("name", PIPELINES)
def test_a_seed_gives_the_same_picture_wherever_it_stands(
    name: str, adapters: dict[Any, Path]
) -> None:
    pipeline_class, build, options = PIPELINES[name]
    pipe = stock(pipeline_class, build())
    pipe.attach(adapters[build])
    few = {**options, "num_inference_steps": 2}  # the scheduler, too, draws noise
    (alone,) = draw(pipe, "a red star", seed=[7], **few)
    batch = draw(pipe, ["a blue ring", "a red star"], seed=[3, 7], **few)
    pair = draw(pipe, "a red star", seed=[7, 8], num_images_per_prompt=2, **few)
    counted = draw(pipe, ["a red star", "a red star"], seed=6, **few)
    for same in (batch[1], pair[0], counted[1]):
        np.testing.assert_allclose(same, alone, atol=1e-5)
    for other in (batch[0], pair[1], counted[0]):
        assert not np.allclose(other, alone, atol=1e-2)


def test_seeds_and_steps_that_do_not_fit_are_refused() -> None:
    pipe = stock(FewStepStableDiffusionPipeline, build_sd())
    with pytest.raises(ValueError, match="seed has 1 numbers for 4 pictures"):
        draw(pipe, ["a", "b"], seed=[1], num_images_per_prompt=2)
    with pytest.raises(ValueError, match="seed and generator exclude each other"):
        draw(pipe, seed=1, generator=torch.Generator())
    with pytest.raises(ValueError, match="num_inference_steps must be a positive integer; got 0"):
        draw(pipe, num_inference_steps=0)
    for seed in (1.5, "x"):
        with pytest.raises(ValueError, match="seed must be an integer"):
            draw(pipe, seed=seed)
    picture = draw(pipe, seed=3, **SIZE)
    for seed in (np.int64(3), np.array([3])):
        assert np.array_equal(draw(pipe, seed=seed, **SIZE), picture)
    embeds = torch.zeros(2, 77, 16)
    assert (
        len(
            pipe(
                prompt_embeds=embeds,
                seed=[1, 2],
                num_inference_steps=1,
                output_type="latent",
                **SIZE,
            ).images
        )
        == 2
    )


@pytest.mark.parametrize(
    "name", [name for name, (_, _, options) in PIPELINES.items() if "image" in options]
)
def test_the_steps_asked_for_are_made_and_begin_at_the_strength(
    name: str, adapters: dict[Any, Path]
) -> None:
    pipeline_class, build, options = PIPELINES[name]
    pipe = stock(pipeline_class, build())
    lcm.attach(pipe, adapters[build])
    seen: list[int] = []
    pipe.unet.register_forward_pre_hook(lambda module, args: seen.append(int(args[1])))
    # by the rule of the LCM authors' image-to-image pipeline: of the grid's lower part, evenly
    # spaced from its top
    for strength, steps, expected in (
        (0.5, 4, [499, 379, 259, 139]),
        (0.2, 4, [199, 159, 99, 59]),
        (1.0, 2, [999, 499]),
        (0.1, 1, [99]),
    ):
        seen.clear()
        draw(pipe, **{**options, "strength": strength}, num_inference_steps=steps, seed=0)
        assert seen == expected


def test_at_full_strength_it_is_the_stock_pipeline(adapters: dict[Any, Path]) -> None:
    pipe = stock(FewStepStableDiffusionImg2ImgPipeline, build_sd())
    lcm.attach(pipe, adapters[build_sd])
    by_hand = stock(StableDiffusionImg2ImgPipeline, pipe)
    options = {"image": PICTURE, "strength": 1.0, "num_inference_steps": 4, "guidance_scale": 1.0}
    one, other = (
        draw(each, generator=torch.Generator().manual_seed(2), **options)
        for each in (pipe, by_hand)
    )
    assert np.array_equal(one, other)


def test_adapters_for_fixed_steps_make_the_lower_part_of_them(adapters: dict[Any, Path]) -> None:
    pipe = stock(FewStepStableDiffusionImg2ImgPipeline, build_sd())
    recipe = make_recipe(
        scheduler="DDIMScheduler",
        scheduler_config={"timestep_spacing": "trailing"},
        num_inference_steps=[4],
    )
    pipe.attach(adapters[build_sd], recipe=recipe)
    seen: list[int] = []
    pipe.unet.register_forward_pre_hook(lambda module, args: seen.append(int(args[1])))
    draw(pipe, image=PICTURE, strength=0.5, seed=0)
    assert seen == [499, 249]  # of 999, 749, 499, 249
    seen.clear()
    pipe.scheduler = lcm.inference.make_scheduler(pipe.scheduler.config, make_recipe())
    draw(pipe, image=PICTURE, strength=0.5, seed=0, timesteps=[799, 599, 399, 199])
    assert seen == [399, 199]  # the caller's own


@pytest.mark.parametrize("kind", ["list", "tensor", "array"])
def test_pictures_stand_beside_their_prompts(kind: str) -> None:
    pictures: Any = np.arange(2.0).reshape(2, 1, 1, 1) * np.ones((2, 4, 4, 3))
    if kind == "list":
        pictures = [Image.new("RGB", (4, 4), color) for color in ("black", "white")]
    if kind == "tensor":
        pictures = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    levels = [
        float(np.asarray(picture).mean() > 0.5)
        for picture in for_every_image("image", pictures, 2, 3)
    ]
    assert levels == [0, 0, 0, 1, 1, 1]
    one = for_every_image("image", pictures[1], 2, 1)
    assert [float(np.asarray(picture).mean() > 0.5) for picture in one] == [1, 1]
    assert for_every_image("image", pictures[0], 1, 1) is not None
    with pytest.raises(ValueError, match="mask_image: 2 pictures for 3 prompts"):
        for_every_image("mask_image", pictures, 3, 1)


def test_the_recipe_comes_and_goes_with_the_adapter(adapters: dict[Any, Path]) -> None:
    pipe = stock(FewStepStableDiffusionImg2ImgPipeline, build_sd())
    assert pipe.recipe is None
    assert pipe.attach({adapters[build_sd]: 0.9}) == pipe.recipe == make_recipe()
    pipe.unload_lora_weights()
    assert pipe.recipe is None
    lcm.detach(pipe)
    assert pipe.recipe is None
