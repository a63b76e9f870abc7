"""Attaching adapters to a stock pipeline, all of them or none, and taking them off again."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

from lcm.adapter.lora import adaptable, lora_modules
from lcm.adapter.names import LARGEST_WEIGHT
from lcm.adapter.recipe import Recipe
from lcm.inference.entries import (
    Entry,
    check_named_once,
    check_names,
    check_others,
    find_lead,
    read_entry,
    recognise,
)
from lcm.inference.first_steps import check_can_begin
from lcm.inference.load import activate, load, replace_unet, swap
from lcm.inference.pipeline import Pipeline, check_pipeline
from lcm.inference.schedulers import fitting_scheduler
from lcm.inference.state import (
    Attachment,
    PipelineState,
    attachment,
    current_recipe,
    members_of,
)
from lcm.inference.watch import join, leave


def own_scheduler_config(pipe: Any) -> Any:
    """The scheduler configuration of the base model, not of the scheduler that an earlier adapter
    has set.
    """
    found = attachment(pipe)
    return (
        found.before.scheduler if found and pipe.scheduler is found.scheduler else pipe.scheduler
    ).config


def plays_already(pipe: Any, lead: Entry, recipe: Recipe) -> bool:
    """Whether the pipeline has the scheduler that this adapter, which is attached, asks for."""
    found = attachment(pipe)
    return (
        found is not None
        and lead.file is None
        and (lead.name, recipe) == (found.lead, found.recipe)
        and pipe.scheduler is found.scheduler
    )


def check_not_fused(pipe: Any) -> None:
    """Raises ValueError for adapters added to the weights: others have no effect beside them, and
    none can be taken out.
    """
    if any(
        layer.merged for model in adaptable(pipe).values() for layer in lora_modules(model).values()
    ):
        raise ValueError(
            "adapters are fused into the weights; call pipe.unfuse_lora(components=['unet']) first "
            "(pipe.unload_lora_weights() keeps them there for good)"
        )


def check_enabled(pipe: Any) -> None:
    """Raises ValueError where a new adapter would be switched off like those there."""
    if any(
        layer.disable_adapters
        for model in adaptable(pipe).values()
        for layer in lora_modules(model).values()
    ):
        raise ValueError("the pipeline's adapters are switched off; call pipe.enable_lora() first")


def checked_weight(source: Any, weight: Any) -> float:
    """Raises ValueError for all but a number of a size that draws: others make black pictures."""
    try:
        value = float(weight)
    except (TypeError, ValueError):
        value = math.nan
    if not abs(value) <= LARGEST_WEIGHT:  # nor is not-a-number
        raise ValueError(
            f"the weight of {source} must be a finite number of at most {LARGEST_WEIGHT:g}, got "
            f"{weight!r}; for weights by blocks or by networks call pipe.set_adapters afterwards"
        )
    return value


def as_mapping(
    adapters: str | os.PathLike[str] | Mapping[Any, float], weight: float
) -> Mapping[Any, float]:
    """Weights by adapter, as `attach` takes them. Raises ValueError for anything else."""
    if isinstance(adapters, Mapping):
        if not adapters:
            raise ValueError(
                "the mapping is empty; pass adapters with their weights, as in "
                "lcm.attach(pipe, {'out/': 1.0, 'style.safetensors': 0.8})"
            )
        if weight != 1.0:
            raise ValueError(
                "pass the weights inside the mapping, as in lcm.attach(pipe, {'out/': 1.0, "
                "'style.safetensors': 0.8})"
            )
        return adapters
    if isinstance(adapters, str | os.PathLike):
        return {adapters: weight}
    raise ValueError(
        f"pass a path, a hub id, or a mapping from several of them to weights; got {adapters!r}"
    )


def load_all(
    pipe: Any, entries: list[Entry], lead: Entry | None, hotswap: bool, before: PipelineState
) -> None:
    """Loads and activates the adapters, a swapped one last: that undoes itself."""
    swapped = lead if hotswap else None
    for entry in sorted(entries, key=lambda entry: (entry is swapped, not entry.is_unet)):
        if entry.is_unet:
            replace_unet(pipe, entry.source, entry.weight)
        elif entry.file and entry is swapped:
            swap(pipe, entry.file, entry.name)
        elif entry.file:
            load(pipe, entry.file, entry.name)
    activate(pipe, {entry.name: entry.weight for entry in entries if not entry.is_unet}, before)


def attach(
    pipe: Pipeline,
    adapters: str | os.PathLike[str] | Mapping[Any, float],
    weight: float = 1.0,
    *,
    adapter_name: str = "lcm",
    recipe: Recipe | None = None,
    hotswap: bool = False,
    teacher_first_steps: int | None = None,
) -> Recipe:
    """Loads adapters into a stock SD or SDXL pipeline and sets the scheduler of the recipe that one
    of them carries.

    `adapters` is a safetensors file, an output folder or a hub id ("owner/name" or
    "owner/name/file.safetensors"); or a mapping from these, or from names of loaded adapters, to
    weights: {"out/": 1.0, "style.safetensors": 0.8}. The one with the recipe is named
    `adapter_name`, styles after their files. Adapters already active keep their weights unless they
    are named. A folder with a whole U-Net puts that in the place of the pipeline's own. `recipe`
    replaces the one in the (first) file: `lcm.Recipe.lcm_lora(pipe)` for LCM-LoRAs from elsewhere.
    `hotswap` puts the file into the tensors of the adapter attached before, so that a compiled
    U-Net is not compiled again. A file that is attached already only gets this weight.
    `teacher_first_steps` is how many steps of a call the teacher makes, guided as it was in
    training and with the few-step adapter off, before the adapter makes the others. None leaves
    that as it was, 0 at first.

    Calls of the pipeline, and of those made from it with `from_pipe`, then have the recipe's steps,
    guidance and eta where they say nothing; they warn, once each, about settings that ruin few-step
    pictures. `detach` undoes everything. Returns the recipe. Raises ValueError when an adapter does
    not fit the pipeline, which is then unchanged.
    """
    weights = as_mapping(adapters, weight)
    if recipe is not None and not isinstance(recipe, Recipe):
        raise ValueError(
            f"recipe must be a lcm.Recipe, as lcm.Recipe.lcm_lora(pipe) makes one; got {recipe!r}"
        )
    return attach_all(
        check_pipeline(pipe), weights, adapter_name, recipe, hotswap, teacher_first_steps
    )


def attach_all(
    pipe: Any,
    weights: Mapping[Any, float],
    adapter_name: str,
    recipe: Recipe | None,
    hotswap: bool,
    first_steps: int | None,
) -> Recipe:
    """`attach`, of arguments that are of the right kinds."""
    entries = [
        read_entry(pipe, source, checked_weight(source, value)) for source, value in weights.items()
    ]
    if not hotswap:
        for entry in entries:
            recognise(pipe, entry, adapter_name)
        check_named_once(entries)
    lead = find_lead(pipe, entries, recipe)
    if lead and lead.file:
        lead.name = adapter_name
    check_names(pipe, entries, lead, hotswap)
    # all that can be wrong is found before anything changes
    check_not_fused(pipe)
    check_enabled(pipe)
    if first_steps is not None:
        check_can_begin(pipe, lead_name(pipe, lead), first_steps)
    if recipe is None:
        check_others(pipe, entries, lead, hotswap)
        recipe = lead.recipe if lead else current_recipe(pipe)
    assert recipe is not None  # `find_lead` has seen to it
    scheduler = pipe.scheduler
    if lead and not plays_already(pipe, lead, recipe):
        scheduler = fitting_scheduler(pipe, recipe, own_scheduler_config(pipe), lead.source)
    # diffusers loads adapter by adapter and leaves behind what it had loaded when one fails
    before = PipelineState.of(pipe)
    added = {entry.name for entry in entries if entry.file and not (hotswap and entry is lead)}
    try:
        load_all(pipe, entries, lead, hotswap, before)
        # last, since an adapter that did not load must not leave another scheduler
        pipe.scheduler = scheduler
        record(pipe, before, entries, lead, recipe, first_steps)
    except BaseException:
        before.restore(pipe, added)
        raise
    return recipe


def lead_name(pipe: Any, lead: Entry | None) -> str | None:
    """The adapter that has the recipe: `lead`, or without one that of before. None for a U-Net."""
    if lead is not None:
        return None if lead.is_unet else lead.name
    found = attachment(pipe)
    return found.lead if found else None


def record(
    pipe: Any,
    before: PipelineState,
    entries: list[Entry],
    lead: Entry | None,
    recipe: Recipe,
    first_steps: int | None,
) -> None:
    """Remembers how to undo it, and watches the calls, also of pipelines with the same U-Net."""
    found = attachment(pipe) or Attachment(before, recipe, pipe.scheduler, pipe.unet)
    join(pipe, found, had=before)
    found.before.add(before)
    found.added |= {entry.name for entry in entries if entry.file}
    found.files |= {entry.name: entry.file.identity for entry in entries if entry.file}
    found.recipes |= {
        entry.name: entry.recipe for entry in entries if entry.recipe and not entry.is_unet
    }
    found.warned = set()
    if first_steps is not None:
        found.teacher_first_steps = first_steps
    if lead:
        found.recipe = recipe
        found.lead = None if lead.is_unet else lead.name
        if found.lead:
            found.recipes[found.lead] = recipe
        move(found, "scheduler", pipe.scheduler)
    if any(entry.is_unet for entry in entries):
        move(found, "unet", pipe.unet)


def move(found: Attachment, name: str, module: Any) -> None:
    """The pipelines that still have what the attachment had set get what it sets now."""
    for pipe in members_of(found):
        if getattr(pipe, name) is getattr(found, name):
            pipe.register_modules(**{name: module})
    setattr(found, name, module)


def detach(pipe: Pipeline) -> None:
    """Undoes every `attach` on this pipeline, and on those that share its U-Net: the scheduler and
    U-Net objects are those of before, the adapters that came with it are gone, those from before
    are as active and as strong as they were. Adapters loaded by other means meanwhile stay.

    Raises ValueError when `attach` was not called on this pipeline, or while adapters are fused
    into the weights.
    """
    found = attachment(check_pipeline(pipe))
    if found is None:
        raise ValueError("lcm.attach was not called on this pipeline; there is nothing to detach")
    check_not_fused(pipe)
    for model in found.before.models:
        model.restore(found.added)
    for member in members_of(found):
        leave(member)
