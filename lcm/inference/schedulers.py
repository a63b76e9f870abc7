"""Which adapter fits which pipeline, and with which scheduler it samples."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Mapping
from typing import Any

import diffusers

from lcm.adapter.recipe import AGAIN, UNCLIPPED, Recipe, family_name
from lcm.adapter.scheduler_values import check_scheduler_values
from lcm.models.prompts import check_clip_skip
from lcm.system.text import plain
from lcm.system.values import shown

FEW_STEP = ("LCMScheduler", "TCDScheduler")
"""Schedulers that a consistency model is played with, at any timesteps."""
SCHEDULERS = (*FEW_STEP, "DDIMScheduler")
NOISE_FACTS = {
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
}
"""What a scheduler's configuration says of the training of the base model, not of sampling."""


def scheduler_overrides(recipe: Recipe) -> dict[str, Any]:
    """What the recipe's scheduler has in place of the base model's own configuration."""
    # early recipes do not say that nothing is clipped
    return {
        **UNCLIPPED,
        **recipe.scheduler_config,
    }


def fitting_scheduler(
    pipe: Any, recipe: Recipe, base_config: Any, source: str | os.PathLike[str]
) -> Any:
    """What the recipe of the adapter `source` plays with on this pipeline, whose own scheduler has
    `base_config`. Raises ValueError naming the adapter where the two do not fit.
    """
    try:
        check_compatible(pipe, recipe, base_config)
        return make_scheduler(base_config, recipe)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def make_scheduler(base_config: Any, recipe: Recipe) -> Any:
    """The recipe's scheduler, built from the base model's own scheduler configuration.

    Raises ValueError for a class that no method samples with, and for a configuration that this
    class does not know, that says something else of the noise than the base model does, or with
    which a number of steps of the recipe cannot be drawn: a recipe may come from anywhere.
    """
    if recipe.scheduler not in SCHEDULERS:
        raise ValueError(
            f"the recipe asks for the scheduler {recipe.scheduler!r}, and this toolkit plays with "
            f"{', '.join(SCHEDULERS)}; {AGAIN}"
        )
    stock = getattr(diffusers, recipe.scheduler)
    overrides = scheduler_overrides(recipe)
    known = inspect.signature(stock.__init__).parameters.keys() - {"self"}
    if unknown := sorted(overrides.keys() - known):
        raise ValueError(
            f"scheduler_config of the recipe: {recipe.scheduler} has no {shown(unknown[0])}; "
            f"{AGAIN}"
        )
    check_scheduler_values(overrides, "scheduler_config of the recipe", AGAIN)
    try:
        scheduler = stock.from_config(base_config, **overrides)
        check_steps(stock.from_config(scheduler.config), recipe.num_inference_steps)
    except Exception as error:  # whatever these libraries raise for numbers that do not fit
        raise ValueError(
            f"the recipe does not fit this pipeline's scheduler: {recipe.scheduler} says "
            f"{plain(error, 300)}; {AGAIN}"
        ) from error
    check_noise(recipe, base_config, scheduler.config)
    return scheduler


def teacher_scheduler(config: Any) -> Any:
    """What the teacher draws with, of its own scheduler's `config`: DDIM from the last timestep
    down to clean data, the path that is distilled. From the same noise as the student it arrives
    where that should.
    """
    overrides = {**UNCLIPPED, "timestep_spacing": "trailing", "set_alpha_to_one": True}
    return diffusers.DDIMScheduler.from_config(config, **overrides)


def check_steps(scheduler: Any, numbers: Iterable[int]) -> None:
    """Raises whatever the scheduler raises for a number of inference steps that it does not make,
    and ValueError for one whose timesteps the base model was not trained on.
    """
    total = scheduler.config.num_train_timesteps
    for steps in numbers:
        scheduler.set_timesteps(steps)
        if not all(0 <= t < total for t in scheduler.timesteps.tolist()):
            raise ValueError(f"{steps} steps would visit timesteps outside 0 to {total - 1}")


def check_noise(recipe: Recipe, base: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Raises ValueError where the recipe's scheduler would take the U-Net for one that was trained
    on other noise than `base` says: it would draw noise, or black pictures.
    """
    for name in sorted(NOISE_FACTS & recipe.scheduler_config.keys()):
        theirs = base.get(name, config[name])
        if config[name] != theirs:
            raise ValueError(
                f"scheduler_config of the recipe says {name} {shown(config[name])}, the scheduler "
                f"of this pipeline {shown(theirs)}; use a base model of the adapter's kind, or "
                f"{AGAIN}"
            )
    if config["prediction_type"] == "epsilon" and config["rescale_betas_zero_snr"]:
        raise ValueError(
            "scheduler_config of the recipe has rescale_betas_zero_snr with an epsilon model, "
            f"which divides by zero at the last timestep; {AGAIN}"
        )


def check_compatible(pipe: Any, recipe: Recipe, scheduler_config: Any) -> None:
    """Raises ValueError when the adapter cannot work on this pipeline, whose own scheduler has
    `scheduler_config`.
    """
    family, width = family_name(pipe.unet), pipe.unet.config.cross_attention_dim
    if (family, width) != (recipe.family, recipe.cross_attention_dim):
        raise ValueError(
            f"the adapter was made for a {recipe.family} U-Net with text width "
            f"{recipe.cross_attention_dim}, this pipeline has a {family} U-Net with text width "
            f"{width}; use a base model of the adapter's family"
        )
    check_clip_skip(pipe, recipe.clip_skip)
    prediction_type = scheduler_config.get("prediction_type", "epsilon")
    if prediction_type != recipe.prediction_type:
        raise ValueError(
            f"the adapter was trained on a {recipe.prediction_type} teacher, this pipeline's "
            f"scheduler says {prediction_type}; use a base model of the adapter's prediction type. "
            "If this one is of it, a single file that does not say so: call "
            f"pipe.scheduler.register_to_config(prediction_type={recipe.prediction_type!r}) first, "
            f"or pass --prediction_type {recipe.prediction_type}"
        )
    if prediction_type == "epsilon" and scheduler_config.get("rescale_betas_zero_snr", False):
        raise ValueError(
            "this pipeline's scheduler has rescale_betas_zero_snr with an epsilon model, which "
            "divides by zero at the last timestep; set rescale_betas_zero_snr=False in its "
            "configuration"
        )
