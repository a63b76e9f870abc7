"""Conditioning and latents, as the stock pipelines make them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lcm.models.conditioning import ImageSize
from lcm.models.families import load_family
from tests.support.worlds import build_sd, build_sdxl

PROMPTS = ["a red star", "blue"]
SIZES = [ImageSize(16, 16, 0, 0, 16, 16)] * 2


def record_unet_calls(pipe: Any, **options: Any) -> list[dict[str, Any]]:
    """What the stock pipeline hands to its U-Net."""
    calls: list[dict[str, Any]] = []
    forward = pipe.unet.forward

    def spy(*args: Any, **kwargs: Any) -> Any:
        calls.append(kwargs)
        return forward(*args, **kwargs)

    if not hasattr(pipe.text_encoder, "text_model"):  # huggingface/diffusers#14124
        vars(pipe.text_encoder)["text_model"] = pipe.text_encoder
    pipe.unet.forward = spy
    pipe(PROMPTS, num_inference_steps=1, height=16, width=16, output_type="latent", **options)
    pipe.unet.forward = forward
    return calls


@pytest.mark.parametrize("clip_skip", [None, 1, 2])
def test_sd_conditions_as_the_stock_pipeline_does(sd_folder: Path, clip_skip: int | None) -> None:
    family = load_family(str(sd_folder), clip_skip=clip_skip)
    (call,) = record_unet_calls(build_sd(), guidance_scale=3.0, clip_skip=clip_skip)
    cond = family.encode_prompts(PROMPTS, SIZES)
    both = family.unconditional(cond).cat(cond)
    torch.testing.assert_close(both.prompt_embeds, call["encoder_hidden_states"])


@pytest.mark.parametrize(("force_zeros", "clip_skip"), [(True, None), (False, None), (False, 1)])
def test_sdxl_conditions_as_the_stock_pipeline_does(
    tmp_path: Path, force_zeros: bool, clip_skip: int | None
) -> None:
    build_sdxl(force_zeros).save_pretrained(tmp_path)
    family = load_family(str(tmp_path), clip_skip=clip_skip)
    (call,) = record_unet_calls(build_sdxl(force_zeros), guidance_scale=3.0, clip_skip=clip_skip)
    cond = family.encode_prompts(PROMPTS, SIZES)
    both = family.unconditional(cond).cat(cond)
    torch.testing.assert_close(both.prompt_embeds, call["encoder_hidden_states"])
    torch.testing.assert_close(both.pooled_prompt_embeds, call["added_cond_kwargs"]["text_embeds"])
    torch.testing.assert_close(both.time_ids, call["added_cond_kwargs"]["time_ids"])
    assert bool((family.unconditional(cond).prompt_embeds == 0).all()) is force_zeros


def test_sdxl_time_ids_are_size_corner_target_each_vertical_first(sdxl_folder: Path) -> None:
    cond = load_family(str(sdxl_folder)).encode_prompts(["x"], [ImageSize(30, 40, 5, 7, 16, 24)])
    assert cond.time_ids is not None
    assert cond.time_ids.tolist() == [[30, 40, 5, 7, 16, 24]]


def test_latents_are_a_scaled_posterior_sample(sd_folder: Path) -> None:
    family = load_family(str(sd_folder))
    pixels, noise = torch.rand(2, 3, 16, 16) * 2 - 1, torch.randn(2, 4, 8, 8)
    posterior = build_sd().vae.encode(pixels).latent_dist
    expected = (posterior.mean + posterior.std * noise) * 0.5
    torch.testing.assert_close(
        family.draw_latents(family.image_moments(pixels), noise),
        expected.detach(),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize(
    ("limit", "expected"), [(512**2, [3]), (2 * 16**2, [2, 1]), (16**2 - 1, [1, 1, 1])]
)
def test_the_vae_sees_large_pictures_one_at_a_time(
    limit: int, expected: list[int], sd_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lcm.models.families.base.PIXELS_AT_ONCE", limit)
    family, sizes = load_family(str(sd_folder)), []
    for part in (family.pipe.vae.encoder, family.pipe.vae.decoder):
        part.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    pixels, noise = torch.rand(3, 3, 16, 16), torch.randn(3, 4, 8, 8)
    latents = family.draw_latents(family.image_moments(pixels), noise)
    family.decode(latents)
    assert sizes == expected * 2
    alone = [
        family.draw_latents(family.image_moments(pixels[i : i + 1]), noise[i : i + 1])
        for i in range(3)
    ]
    torch.testing.assert_close(latents, torch.cat(alone), rtol=1e-4, atol=1e-5)
