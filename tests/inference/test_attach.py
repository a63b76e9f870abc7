"""`lcm.attach` and `lcm.detach` on every stock pipeline: what stock diffusers does by hand, and
undone without a trace."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderTiny,
    ControlNetModel,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
)
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

import lcm
from tests.support.adapters import everything, make_recipe
from tests.support.pipelines import (
    BASE,
    FEW,
    MASK,
    PICTURE,
    SIZE,
    assert_same_weights,
    draw,
    nine_channels,
    stock,
    weights,
)
from tests.support.schedules import SD_BETAS
from tests.support.worlds import build_sd, build_sdxl


def control(pipe: Any) -> ControlNetModel:
    torch.manual_seed(3)
    net = ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(4, 8))
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return net.eval()


def with_ip_adapter(pipe: Any) -> Any:
    torch.manual_seed(4)
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        projection_dim=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
    )
    pipe.register_modules(
        image_encoder=CLIPVisionModelWithProjection(vision).eval(),
        feature_extractor=CLIPImageProcessor(
            size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8}
        ),
    )
    width, state = pipe.unet.config.cross_attention_dim, {}
    for i, name in enumerate(pipe.unet.attn_processors):
        if name.endswith("attn2.processor"):
            hidden = pipe.unet.get_submodule(name.removesuffix(".processor")).to_q.out_features
            state |= {
                f"{i}.to_{part}_ip.weight": 0.3 * torch.randn(hidden, width) for part in ("k", "v")
            }
    projection = {"proj.weight": torch.randn(4 * width, 8), "proj.bias": torch.zeros(4 * width)}
    projection |= {"norm.weight": torch.ones(width), "norm.bias": torch.zeros(width)}
    pipe.load_ip_adapter(
        {"image_proj": projection, "ip_adapter": state},
        subfolder="",
        weight_name="",
        image_encoder_folder=None,
    )
    return pipe


def tiny_vae() -> AutoencoderTiny:
    torch.manual_seed(5)
    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    ).eval()


FROM: dict[str, Any] = {"image": PICTURE, "strength": 1.0}
INPAINT: dict[str, Any] = {**SIZE, **FROM, "mask_image": MASK}
PIPELINES: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "sd": (build_sd, SIZE),
    "sd img2img": (lambda: stock(StableDiffusionImg2ImgPipeline, build_sd()), FROM),
    "sd inpaint": (lambda: stock(StableDiffusionInpaintPipeline, build_sd()), INPAINT),
    "sd inpaint 9": (lambda: stock(StableDiffusionInpaintPipeline, nine_channels()), INPAINT),
    "sd controlnet": (
        lambda: stock(
            StableDiffusionControlNetPipeline, pipe := build_sd(), controlnet=control(pipe)
        ),
        {**SIZE, "image": PICTURE},
    ),
    "sd ip-adapter": (
        lambda: with_ip_adapter(build_sd()),
        {**SIZE, "ip_adapter_image": PICTURE[..., :8, :8]},
    ),
    "sd tiny vae": (lambda: stock(StableDiffusionPipeline, build_sd(), vae=tiny_vae()), SIZE),
    "sdxl": (build_sdxl, SIZE),
    "sdxl img2img": (lambda: stock(StableDiffusionXLImg2ImgPipeline, build_sdxl()), FROM),
    "sdxl inpaint": (lambda: stock(StableDiffusionXLInpaintPipeline, build_sdxl()), INPAINT),
    "sdxl controlnet": (
        lambda: stock(
            StableDiffusionXLControlNetPipeline, pipe := build_sdxl(), controlnet=control(pipe)
        ),
        {**SIZE, "image": PICTURE},
    ),
}


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
    by_hand.load_lora_weights(file)
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
