"""Families of teachers, found by the pipeline class that a checkpoint names."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import LCMScheduler

from lcm.diffusion.prediction_types import PREDICTION_TYPES
from lcm.models.base_model import load_base, named_by
from lcm.models.families.base import Family
from lcm.models.families.sd import StableDiffusion
from lcm.models.families.sdxl import StableDiffusionXL
from lcm.models.noise import Noise, set_noise

FAMILIES: dict[str, type[Family]] = {
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusionXL,
}
"""Pipeline class name in model_index.json -> family."""

NOISE_FACTS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "prediction_type")


def check_noise(scheduler: Any, path: str) -> None:
    """Raises ValueError for a teacher of another kind of noise than that of LCMScheduler, which
    training and sampling compute with.
    """
    name, config = type(scheduler).__name__, scheduler.config
    # a configuration keeps the entries of classes that it went through: betas in it do not prove
    # that this one has them
    has_betas = hasattr(scheduler, "alphas_cumprod") and all(fact in config for fact in NOISE_FACTS)
    is_continuous = (
        config.get("use_flow_sigmas", False)
        or config.get("timestep_type", "discrete") != "discrete"
    )
    if not has_betas or is_continuous or config["prediction_type"] not in PREDICTION_TYPES:
        raise ValueError(
            f"pretrained_teacher_model: {path} has the scheduler {name} of a model with continuous "
            "noise levels (EDM, flow matching); use a teacher that predicts "
            f"{', '.join(PREDICTION_TYPES)} at discrete timesteps, as Stable Diffusion 1.5 and "
            "SDXL base do, or restore its own scheduler if this is another one"
        )
    try:
        ours = LCMScheduler.from_config(config).config
    except NotImplementedError as error:
        raise ValueError(
            f"pretrained_teacher_model: {path} has noise that LCMScheduler cannot play ({error}); "
            "use another teacher"
        ) from error
    for fact in NOISE_FACTS:
        if ours[fact] != config[fact]:  # left to the default of a class, and theirs differ
            raise ValueError(
                f"pretrained_teacher_model: the scheduler of {path} leaves {fact} to the default "
                f"of {name}, {config[fact]}, and LCMScheduler's is {ours[fact]}; write {fact} "
                "into its scheduler/scheduler_config.json"
            )


def check_latents(vae: Any, flag: str, path: str) -> None:
    """Raises ValueError for a VAE whose latents are normalised per channel: here one scaling factor
    is all that is applied.
    """
    for fact in ("latents_mean", "latents_std"):
        if vae.config.get(fact) is not None:
            raise ValueError(
                f"{flag}: the VAE of {path} has {fact}, and latents normalised per channel cannot "
                "be distilled; use a teacher and VAE with a scaling_factor alone, as Stable "
                "Diffusion 1.5 and SDXL base have"
            )


def load_family(
    path: str,
    *,
    base_config: str | None = None,
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
    variant: str | None = None,
    vae_path: str | None = None,
    noise: Noise | None = None,
    clip_skip: int | None = None,
) -> Family:
    """Loads a teacher as `load_base` does, all components in `dtype` (a VAE that asks for it stays
    in float32). `noise` is what the user says of it, `clip_skip` the number of layers of the text
    encoders that are left out.

    Raises FileNotFoundError or ValueError that name what is missing, and ValueError for a
    checkpoint that cannot be distilled.
    """
    with named_by(
        path="pretrained_teacher_model",
        revision="teacher_revision",
        vae_path="pretrained_vae_model_name_or_path",
    ):
        pipe = load_base(
            path,
            base_config=base_config,
            dtype=dtype,
            revision=revision,
            variant=variant,
            vae_path=vae_path,
        )
    set_noise(pipe, noise or Noise())
    # all of these would train for a night and draw noise
    if pipe.unet.config.in_channels != pipe.vae.config.latent_channels:
        raise ValueError(
            f"pretrained_teacher_model: the U-Net of {path} takes {pipe.unet.config.in_channels} "
            f"channels, its VAE gives {pipe.vae.config.latent_channels}; inpainting models cannot "
            "be distilled, use their text-to-image base"
        )
    if pipe.unet.config.get("time_cond_proj_dim") is not None:
        raise ValueError(
            f"pretrained_teacher_model: the U-Net of {path} has a guidance embedding "
            "(time_cond_proj_dim): it is a distilled model; pass the model it was made from"
        )
    check_noise(pipe.scheduler, path)
    check_latents(
        pipe.vae,
        "pretrained_vae_model_name_or_path" if vae_path else "pretrained_teacher_model",
        vae_path or path,
    )
    # the VAE of SDXL overflows in float16
    if pipe.vae.config.get("force_upcast", False):
        pipe.vae.to(torch.float32)
    return FAMILIES[type(pipe).__name__](pipe, clip_skip)


__all__ = ["FAMILIES", "Family", "StableDiffusion", "StableDiffusionXL", "load_family"]
