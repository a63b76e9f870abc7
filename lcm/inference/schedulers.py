"""Which adapter fits which pipeline, and with which scheduler it samples."""

from __future__ import annotations

from typing import Any

import diffusers

from lcm.adapter.recipe import UNCLIPPED, Recipe, family_name

SCHEDULERS = ("LCMScheduler", "TCDScheduler", "DDIMScheduler")


def scheduler_overrides(recipe: Recipe) -> dict[str, Any]:
    """What the recipe's scheduler has in place of the base model's own configuration."""
    # early recipes do not say that nothing is clipped
    return {
        **UNCLIPPED,
        **recipe.scheduler_config,
    }


def make_scheduler(base_config: Any, recipe: Recipe) -> Any:
    """The recipe's scheduler, built from the base model's own scheduler configuration.

    Raises ValueError for a class that no method samples with: a recipe may come from anywhere.
    """
    if recipe.scheduler not in SCHEDULERS:
        raise ValueError(
            f"the recipe asks for {recipe.scheduler!r}; this toolkit plays with "
            f"{', '.join(SCHEDULERS)}"
        )
    return getattr(diffusers, recipe.scheduler).from_config(
        base_config, **scheduler_overrides(recipe)
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
    prediction_type = scheduler_config.get("prediction_type", "epsilon")
    if prediction_type != recipe.prediction_type:
        raise ValueError(
            f"the adapter was trained on a {recipe.prediction_type} teacher, this pipeline's "
            f"scheduler says {prediction_type}; use a base model of the adapter's prediction type, "
            "or correct the scheduler's prediction_type if it is wrong"
        )
    if prediction_type == "epsilon" and scheduler_config.get("rescale_betas_zero_snr", False):
        raise ValueError(
            "this pipeline's scheduler has rescale_betas_zero_snr with an epsilon model, which "
            "divides by zero at the last timestep; set rescale_betas_zero_snr=False in its "
            "configuration"
        )
