"""The adapter that a run starts from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from safetensors import SafetensorError

from lcm.adapter.export import fresh_with_lora
from lcm.adapter.files import AdapterFile
from lcm.adapter.locate import find_recipe, locate
from lcm.adapter.lora import layers_named, lora_modules
from lcm.adapter.recipe import Recipe
from lcm.config.sections import AdapterConfig
from lcm.formats.advice import check_sound
from lcm.formats.read import understand
from lcm.models.families import Family


@dataclass(frozen=True)
class FirstAdapter:
    """--init_adapter: a U-Net that has it and shares the teacher's weights, and its recipe where
    this toolkit wrote it.
    """

    unet: Any
    recipe: Recipe | None


def load_first(config: AdapterConfig, family: Family) -> FirstAdapter | None:
    """The adapter to start from, None without one. Leaves the family's U-Net as it is: all that can
    be wrong with the flags of the adapter is found here, before trajectories are made with that
    U-Net.

    Raises ValueError for --lora_target_modules that the U-Net lacks and for an --init_adapter that
    does not fit, and FileNotFoundError where there is no such file.
    """
    layers = layers_named(family.unet, config.lora_target_modules)
    if config.init_adapter is None:
        return None
    path = locate(config.init_adapter)
    try:
        recipe = find_recipe(path)  # None in an adapter of another trainer
    except ValueError as error:
        raise ValueError(f"init_adapter: {error}") from error
    if recipe is not None and (recipe.family, recipe.prediction_type) != (
        family.name,
        family.schedule.prediction_type,
    ):
        raise ValueError(
            f"init_adapter: {config.init_adapter} was made for a {recipe.family} model that "
            f"predicts {recipe.prediction_type}, the teacher is {family.name} and predicts "
            f"{family.schedule.prediction_type}; pass an adapter of the teacher's kind"
        )
    file = AdapterFile.read(path)
    try:
        check_sound(file, understand(file).problems)
    except ValueError as error:
        raise ValueError(f"init_adapter: {error}") from error
    try:
        unet = fresh_with_lora(family.unet, path, type(family.pipe))
    except (OSError, RuntimeError, KeyError, SafetensorError) as error:
        raise ValueError(
            f"init_adapter: {config.init_adapter} does not fit the teacher's U-Net ({error})"
        ) from error
    check_first(unet, layers, config)
    return FirstAdapter(unet, recipe)


def check_first(unet: Any, layers: set[str], config: AdapterConfig) -> None:
    """Raises ValueError when layers, ranks or scales differ from those of the run, naming the flag
    to pass.
    """
    theirs = lora_modules(unet)
    if set(theirs) != layers:
        raise ValueError(
            f"init_adapter: {config.init_adapter} adapts {len(theirs)} layers, this run "
            f"{len(layers)}; the first difference is {min(set(theirs) ^ layers)}; pass its "
            "--lora_target_modules"
        )
    scaling = (config.lora_alpha or config.lora_rank) / config.lora_rank
    for layer in theirs.values():
        rank = layer.r["default"]
        if rank != config.lora_rank or abs(layer.scaling["default"] - scaling) > 1e-6:
            alpha = layer.scaling["default"] * rank
            raise ValueError(
                f"init_adapter: {config.init_adapter} has rank {rank} and alpha {alpha:g}; pass "
                f"--lora_rank {rank} --lora_alpha {alpha:g}"
            )
