"""What a call of a pipeline with an adapter has where the caller says nothing."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from inspect import Parameter
from typing import Any

from peft.tuners.lora import LoraLayer

from lcm.adapter.lora import adaptable
from lcm.adapter.recipe import CallDefaults, Recipe
from lcm.diffusion.grid import steps_of_call
from lcm.inference.arguments import accepted
from lcm.inference.call_warnings import look_at_negative_prompt
from lcm.inference.grid import check_steps
from lcm.inference.state import Attachment

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""Those by position and those by name."""


def supply(
    pipe: Any,
    found: Attachment,
    call: Callable[..., Any],
    args: tuple[Any, ...],
    options: dict[str, Any],
) -> Arguments:
    """The arguments of a call, with the recipe's numbers where it lacks them. Says what a negative
    prompt cannot do.

    Raises ValueError for a number of steps that the adapter's grid does not have.
    """
    found.steps = None  # of an earlier call, if that broke off
    if is_off(pipe, found):
        return args, options
    signature = inspect.signature(call)
    try:
        bound = signature.bind_partial(pipe, *args, **options)
    except TypeError:
        return args, options  # the call says itself what is wrong with them
    kinds = {parameter.kind: name for name, parameter in signature.parameters.items()}
    if not bound.arguments.get(kinds.get(Parameter.VAR_POSITIONAL, "")):
        fill(bound, found.recipe.call_defaults())  # nothing was said by a place that has no name
    others = bound.arguments.get(kinds.get(Parameter.VAR_KEYWORD, ""), {})
    defaults = {name: parameter.default for name, parameter in signature.parameters.items()}
    said = {**defaults, **bound.arguments, **others}
    if said.get("timesteps") is None and said.get("sigmas") is None:
        original = said.get("original_inference_steps")
        check_steps(pipe.scheduler, said.get("num_inference_steps"), found.recipe, original)
        begin(pipe, bound, said, found.recipe, kinds.get(Parameter.VAR_KEYWORD))
    look_at_negative_prompt(pipe, found, said)
    return bound.args[1:], bound.kwargs


def fill(bound: inspect.BoundArguments, defaults: CallDefaults) -> None:
    """Adds what the call takes and the caller has not said. None says something only where the
    call itself has it by default.
    """
    for name, value in vars(defaults).items():
        parameter = bound.signature.parameters.get(name)
        if parameter is None or value is None:
            continue
        if bound.arguments.get(name) is None and (
            name not in bound.arguments or parameter.default is not None
        ):
            bound.arguments[name] = value


def begin(
    pipe: Any,
    bound: inspect.BoundArguments,
    said: Mapping[str, Any],
    recipe: Recipe,
    others: str | None,
) -> None:
    """Adds the timesteps, if the recipe says where they begin, to a call from text alone that plays
    with the recipe's scheduler; `others` is what the call has for names that it does not list.
    """
    steps, first = said.get("num_inference_steps"), recipe.first_timestep
    if not steps or first is None or type(pipe.scheduler).__name__ != recipe.scheduler:
        return
    names = accepted(getattr(pipe, "stock_class", type(pipe)))
    if "strength" in names or "timesteps" not in names:
        return
    told = steps_of_call(steps, first, pipe.scheduler.config)
    if "timesteps" in bound.signature.parameters:
        bound.arguments.update(told)
    elif others is not None:
        bound.arguments[others] = {**bound.arguments.get(others, {}), **told}


def is_off(pipe: Any, found: Attachment) -> bool:
    """Whether the adapter is in the U-Net and plays no part: the pipeline is then what its user
    makes of it.
    """
    is_there = False
    for layer in adaptable(pipe)["unet"].modules():  # the first that is on will do
        if not isinstance(layer, LoraLayer) or found.lead not in layer.r or layer.merged:
            continue
        is_there, is_on = True, found.lead in layer.active_adapters and not layer.disable_adapters
        if is_on and float(layer.scaling[found.lead]):
            return False
    return is_there
