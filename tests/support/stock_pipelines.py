"""Stock pipelines of every kind that adapters are attached to, and what each is called with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import (
    AutoencoderTiny,
    ControlNetModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
)
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from tests.support.pipelines import MASK, PICTURE, SIZE, nine_channels, stock
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
