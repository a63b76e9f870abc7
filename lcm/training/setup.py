"""Setting up a run."""

from __future__ import annotations

import dataclasses

from lcm.adapter.recipe import Recipe
from lcm.config.run import TrainConfig
from lcm.methods import OBJECTIVES, make_recipe
from lcm.models.families import Family


def build_recipe(config: TrainConfig, family: Family, first: Recipe | None) -> Recipe:
    """How the trained file must be played. `first` is the recipe of the adapter that the run starts
    from.
    """
    recipe = make_recipe(
        OBJECTIVES[config.objective],
        config,
        family=family.name,
        cross_attention_dim=family.unet.config.cross_attention_dim,
        prediction_type=family.schedule.prediction_type,
        zero_terminal_snr=family.zero_terminal_snr,
        teacher=str(config.pretrained_teacher_model),
        resolution=config.resolution,
        teacher_loras=[style.facts() for style in config.styles],
        extra_teachers=config.extra_teachers,
    )
    if config.w_embedding:  # the value that the pipeline embeds; it guides nothing by itself
        recipe = dataclasses.replace(recipe, guidance_scale=sum(config.guidance_range) / 2)
    # without a teacher, the adapter keeps the guidance it has
    if first is not None and not OBJECTIVES[config.objective].has_teacher:
        recipe = dataclasses.replace(
            recipe,
            trained_guidance_scale=first.trained_guidance_scale,
            guidance_scale=first.guidance_scale,
        )
    return recipe
