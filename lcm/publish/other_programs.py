"""How ComfyUI and A1111 are set for a recipe, and what of it they cannot play: the one place that
cards, reports and workflows take it from; `program_words` has it in sentences. What of the weights
they take, `lcm.formats.programs` knows: of ours all, through their loaders for the model alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from lcm.adapter.names import SUFFIX
from lcm.adapter.recipe import Recipe
from lcm.system.text import plain

SAMPLERS = {
    "LCMScheduler": ("lcm", "LCM"),
    "TCDScheduler": ("lcm", "TCD where it is installed, else LCM"),
    "DDIMScheduler": ("ddim", "Euler"),
}
"""What ComfyUI and A1111 call the schedulers of recipes. A1111's own DDIM has leading timesteps,
whatever the schedule type.
"""
ON_A_GRID = ("LCMScheduler", "TCDScheduler")
"""Schedulers that visit times of the solver steps of training; those of the others are even."""
COMFY_GRID = 50
"""The solver steps of training that ComfyUI's sampling `lcm` and A1111's sampler LCM assume."""
TIMES = 1000
"""Of the schedules of all these models."""
SAMPLINGS = {"v_prediction": "v_prediction", "sample": "x0"}
"""What ComfyUI calls the predictions that it does not assume of an unknown checkpoint."""


@dataclass(frozen=True)
class ComfySettings:
    """What KSampler is set to, what the node ModelSamplingDiscrete is, None without one, and what
    of the recipe is played otherwise, in sentences.
    """

    sampler: str
    steps: int
    cfg: float
    sampling: str | None
    zsnr: bool
    limits: tuple[str, ...]
    scheduler: str = "simple"
    """Its noise levels are those of whole timesteps, and the pictures those of diffusers:
    `sgm_uniform` has levels between them.
    """
    clip_layer: int | None = None
    """What CLIPSetLastLayer is set to, None without one."""
    sigmas: tuple[float, ...] = ()
    """What ManualSigmas is set to, in the place of steps and scheduler, and none without one."""


def comfy_settings(recipe: Recipe, w_embedding: bool) -> ComfySettings | None:
    """The settings of ComfyUI; None where it cannot play what was trained."""
    if w_embedding:
        return None
    sampling, zsnr = sampling_of(recipe)
    return ComfySettings(
        sampler=SAMPLERS[recipe.scheduler][0],
        steps=recipe.usual_steps,
        cfg=cfg_of(recipe),
        sampling=sampling,
        zsnr=zsnr,
        limits=tuple(limits(recipe, sampling)),
        clip_layer=clip_layer_of(recipe),
        sigmas=sigmas_of(recipe),
    )


def sigmas_of(recipe: Recipe) -> tuple[float, ...]:
    """sigma / alpha of the usual number of steps and the 0 of the end, where play begins below the
    last timestep; with the noise of Stable Diffusion and SDXL, which ComfyUI has for them. KSampler
    would begin at the last.
    """
    if recipe.first_timestep is None:
        return ()
    from diffusers import LCMScheduler

    schedule = LCMScheduler(rescale_betas_zero_snr=recipe.zero_terminal_snr)
    bars = schedule.alphas_cumprod[recipe.usual_call()["timesteps"]]
    return (*((1.0 - bars) / bars).sqrt().tolist(), 0.0)


def sigma_words(sigmas: Sequence[float]) -> str:
    """The text of ManualSigmas."""
    return ", ".join(f"{sigma:.4f}" for sigma in sigmas)


def clip_skip_of(recipe: Recipe) -> int:
    """How many layers of the text encoders were left out."""
    return recipe.clip_skip or 0


def clip_layer_of(recipe: Recipe) -> int | None:
    """The last layer of the text encoders, as ComfyUI counts from the end, -1 being the last;
    SDXL has -2 without any node.
    """
    skipped = clip_skip_of(recipe)
    return -(skipped + (2 if recipe.family == "sdxl" else 1)) if skipped else None


def cfg_of(recipe: Recipe) -> float:
    """The guidance of programs: what is in the weights must not be added once more."""
    return recipe.guidance_scale if max(recipe.trained_guidance_scale, default=1) == 1 else 1.0


def grid_of(recipe: Recipe) -> int:
    """The solver steps that it was trained on."""
    return int(recipe.scheduler_config.get("original_inference_steps", COMFY_GRID))


def on_their_grid(recipe: Recipe) -> bool:
    """Whether ComfyUI's sampling `lcm` and A1111's sampler LCM are made for it: they have 50 solver
    steps and the usual boundary, and take whatever a network predicts for epsilon.
    """
    scaling = recipe.scheduler_config.get("timestep_scaling", 10.0)
    is_usual = grid_of(recipe) == COMFY_GRID and scaling == 10.0
    return recipe.scheduler in ON_A_GRID and is_usual and recipe.prediction_type == "epsilon"


def is_even(recipe: Recipe) -> bool:
    """Whether the times of the recipe's scheduler are evenly spaced, but for rounding, with every
    number of steps.
    """
    if recipe.scheduler not in ON_A_GRID:
        return True
    grid = grid_of(recipe)
    return all(
        abs((grid - i * grid // steps) * (TIMES // grid) - 1 - (TIMES - 1) * (1 - i / steps)) <= 1
        for steps in recipe.num_inference_steps
        for i in range(steps)
    )


def sampling_of(recipe: Recipe) -> tuple[str | None, bool]:
    """What ModelSamplingDiscrete is set to, and its zsnr. With `lcm` the times are those of the
    recipe's scheduler; a TCD has no boundary, which is nothing at the times that are visited.
    """
    if recipe.prediction_type in SAMPLINGS:
        return SAMPLINGS[recipe.prediction_type], recipe.zero_terminal_snr
    return ("lcm" if on_their_grid(recipe) else None), False


def limits(recipe: Recipe, sampling: str | None) -> list[str]:
    """What ComfyUI does otherwise than the recipe says, in sentences."""
    lines = []
    if sampling != "lcm" and not is_even(recipe):
        lines.append(
            "ComfyUI plays it at evenly spaced times, the nearest that it has to those of the "
            f"{grid_of(recipe)} solver steps of training."
        )
    if recipe.scheduler == "TCDScheduler":
        lines.append(
            "ComfyUI has no TCD of its own: `lcm` stands in for it, with more noise between steps."
        )
    if recipe.scheduler in ON_A_GRID and recipe.prediction_type != "epsilon":
        lines.append(
            "The sampling `lcm` of that node is for epsilon: with it, this "
            f"{recipe.prediction_type} model would draw noise."
        )
    if recipe.first_timestep is not None:
        lines.append(
            f"Play begins at timestep {recipe.first_timestep}: ManualSigmas came to ComfyUI in "
            "December 2025, and for a single step its first number and the 0 are enough. A1111 has "
            "no such setting and begins at the last, where its pictures are worse."
        )
    if recipe.injection:
        lines.append("It has no sampler with this method's own noise: its pictures are others.")
    return lines


def single_file(name: str) -> str:
    """The file that a model's name stands for in these programs, which know single files alone."""
    name = plain(PurePath(name).name)
    return name if name.endswith(SUFFIX) else f"{name}{SUFFIX}"
