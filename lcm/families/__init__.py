"""Families of teachers, found by the pipeline class that a checkpoint names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, LCMScheduler
from safetensors import SafetensorError

from lcm.adapters import tensor_names
from lcm.families.base import Family, ImageSize
from lcm.families.sd import StableDiffusion
from lcm.families.sdxl import StableDiffusionXL
from lcm.schedule import PREDICTION_TYPES

FAMILIES: dict[str, type[Family]] = {
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusionXL,
}
"""Pipeline class name in model_index.json -> family."""

NOISE_FACTS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "prediction_type")
REQUIRED = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")


def check_local_teacher(folder: Path) -> None:
    """Raises FileNotFoundError or ValueError naming what a local teacher folder lacks, before any weight is read."""
    index = folder / "model_index.json"
    if not index.is_file():
        raise FileNotFoundError(
            f"pretrained_teacher_model: {folder} has no model_index.json; pass a diffusers pipeline folder (a single-file "
            "checkpoint can be converted with StableDiffusionPipeline.from_single_file(...).save_pretrained(folder))"
        )
    try:
        components = json.loads(index.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"pretrained_teacher_model: {index} is not valid JSON ({error}); restore the file") from error
    if not isinstance(components, dict):
        raise ValueError(f"pretrained_teacher_model: {index} must hold a JSON object; restore the file")
    check_class(components.get("_class_name"), str(folder))
    declared = {name for name, value in components.items() if isinstance(value, list) and value[0] is not None}
    for name in sorted(declared.union(REQUIRED) - {"safety_checker", "feature_extractor", "image_encoder"}):
        if not (folder / name).is_dir() or not any((folder / name).iterdir()):
            raise FileNotFoundError(
                f"pretrained_teacher_model: {folder} lacks its component {name!r} (no files in {folder / name}); complete the "
                "download or save the pipeline again"
            )


def check_class(class_name: Any, where: str) -> None:
    if class_name not in FAMILIES:
        raise ValueError(
            f"pretrained_teacher_model: {where} is a {class_name}; this toolkit distils {' and '.join(FAMILIES)} checkpoints"
        )


def check_complete(pipe: Any, path: str, replaced: set[str]) -> None:
    """Raises ValueError where weights or a vocabulary are missing, which the libraries pass over with random values.

    `replaced` components come from elsewhere.
    """
    for name, component in pipe.components.items():
        if isinstance(component, torch.nn.Module) and name not in replaced:
            if any(p.is_meta for p in component.parameters()):
                raise ValueError(f"pretrained_teacher_model: the weight file of {name} in {path} lacks tensors; download it again")
            files = list(Path(path, name).glob("*.safetensors"))
            if len(files) == 1 and len(tensor_names(files[0])) < len(component.state_dict()):
                raise ValueError(f"pretrained_teacher_model: {files[0]} lacks tensors; download it again")
    for number in ("", "_2"):
        tokenizer, encoder = (getattr(pipe, f"{part}{number}", None) for part in ("tokenizer", "text_encoder"))
        if tokenizer is not None and encoder is not None and len(tokenizer) < 0.9 * encoder.config.vocab_size:
            raise ValueError(
                f"pretrained_teacher_model: tokenizer{number} of {path} knows {len(tokenizer)} of the "
                f"{encoder.config.vocab_size} words of its text encoder; its vocabulary file is missing, download it again"
            )


def check_noise(scheduler: Any, path: str) -> None:
    """Raises ValueError for a teacher of another kind of noise than that of LCMScheduler, which training and play compute with."""
    name, config = type(scheduler).__name__, scheduler.config
    # a configuration keeps the entries of classes that it went through: betas in it do not prove that this one has them
    has_betas = hasattr(scheduler, "alphas_cumprod") and all(fact in config for fact in NOISE_FACTS)
    is_continuous = config.get("use_flow_sigmas", False) or config.get("timestep_type", "discrete") != "discrete"
    if not has_betas or is_continuous or config["prediction_type"] not in PREDICTION_TYPES:
        raise ValueError(
            f"pretrained_teacher_model: {path} has the scheduler {name} of a model with continuous noise levels (EDM, flow "
            f"matching); use a teacher that predicts {', '.join(PREDICTION_TYPES)} at discrete timesteps, as Stable Diffusion 1.5 "
            "and SDXL base do, or restore its own scheduler if this is another one"
        )
    try:
        played = LCMScheduler.from_config(config).config
    except NotImplementedError as error:
        raise ValueError(
            f"pretrained_teacher_model: {path} has noise that LCMScheduler cannot play ({error}); use another teacher"
        ) from error
    for fact in NOISE_FACTS:
        if played[fact] != config[fact]:  # left to the default of a class, and theirs differ
            raise ValueError(
                f"pretrained_teacher_model: the scheduler of {path} leaves {fact} to the default of {name}, {config[fact]}, and "
                f"LCMScheduler's is {played[fact]}; write {fact} into its scheduler/scheduler_config.json"
            )


def check_latents(vae: Any, flag: str, path: str) -> None:
    """Raises ValueError for a VAE whose latents are normalised per channel: here one scaling factor is all that is applied."""
    for fact in ("latents_mean", "latents_std"):
        if vae.config.get(fact) is not None:
            raise ValueError(
                f"{flag}: the VAE of {path} has {fact}, and latents normalised per channel cannot be distilled; use a teacher and "
                "VAE with a scaling_factor alone, as Stable Diffusion 1.5 and SDXL base have"
            )


def load_family(
    path: str,
    *,
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
    variant: str | None = None,
    vae_path: str | None = None,
) -> Family:
    """Loads a teacher from a folder or the hub, all components in `dtype` (a VAE that asks for it stays in float32).

    Only safetensors are read, since pickled weights can run code. Raises FileNotFoundError or ValueError that name what is
    missing, and ValueError for a checkpoint that is no Stable Diffusion text-to-image model.
    """
    if Path(path).is_dir():
        check_local_teacher(Path(path))
    elif Path(path).exists() or path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise FileNotFoundError(f"pretrained_teacher_model: {path} is not a folder; pass a diffusers pipeline folder or a hub id")
    try:
        vae = {"vae": AutoencoderKL.from_pretrained(vae_path, torch_dtype=dtype, use_safetensors=True)} if vae_path else {}
    except (OSError, ValueError, SafetensorError) as error:
        raise FileNotFoundError(f"pretrained_vae_model_name_or_path: {vae_path} could not be loaded: {error}") from error
    try:
        pipe = DiffusionPipeline.from_pretrained(
            path, dtype=dtype, revision=revision, variant=variant, use_safetensors=True, safety_checker=None, **vae
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise FileNotFoundError(f"pretrained_teacher_model: {path} could not be loaded: {error}") from error
    check_class(type(pipe).__name__, path)
    check_complete(pipe, path, replaced={"vae"} if vae_path else set())
    if pipe.unet.config.in_channels != pipe.vae.config.latent_channels:
        raise ValueError(
            f"pretrained_teacher_model: the U-Net of {path} takes {pipe.unet.config.in_channels} channels, its VAE gives "
            f"{pipe.vae.config.latent_channels}; inpainting models cannot be distilled, use their text-to-image base"
        )
    if pipe.unet.config.get("time_cond_proj_dim") is not None:
        raise ValueError(
            f"pretrained_teacher_model: the U-Net of {path} has a guidance embedding (time_cond_proj_dim): it is a distilled "
            "model; pass the model it was made from"
        )
    check_noise(pipe.scheduler, path)
    check_latents(pipe.vae, "pretrained_vae_model_name_or_path" if vae_path else "pretrained_teacher_model", vae_path or path)
    if pipe.vae.config.get("force_upcast", False):
        pipe.vae.to(torch.float32)
    return FAMILIES[type(pipe).__name__](pipe)


__all__ = ["FAMILIES", "Family", "ImageSize", "StableDiffusion", "StableDiffusionXL", "load_family"]
