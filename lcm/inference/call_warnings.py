"""Warnings about calls that ruin few-step pictures, given while a pipeline with an adapter is
called.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from numbers import Real
from typing import Any

import diffusers

from lcm.adapter.recipe import Recipe
from lcm.inference.grid import enough_steps, enough_strength, grid_size
from lcm.inference.schedulers import scheduler_overrides
from lcm.inference.state import Attachment

MODERATE_GUIDANCE = 2.0
"""Up to here guidance on top of the guidance inside an adapter is a matter of taste: the official
model cards go so far.
"""

NEGATIVE = ("negative_prompt", "negative_prompt_2", "negative_prompt_embeds")
"""What guidance leads away from, as calls take it."""


def look_at_strength(
    pipe: Any,
    found: Attachment,
    result: Any,
    num_inference_steps: int,
    strength: float,
    *args: Any,
    **options: Any,
) -> None:
    """Raises ValueError when image-to-image would make no step at all: stock pipelines return an
    empty batch then, or break.
    """
    found.steps = int(result[1])
    if found.steps >= 1:
        return
    if (start := options.get("denoising_start")) is not None:
        raise ValueError(
            f"{num_inference_steps} steps from denoising_start={start} on make no step, and no "
            "picture; pass more of them, or a lower denoising_start"
        )
    ways = [f"strength {enough_strength(1, num_inference_steps)} or more"]
    enough, most = enough_steps(strength), grid_size(pipe.scheduler)
    # adapters for fixed steps play with those alone
    if enough and most and enough <= most and found.recipe.scheduler != "DDIMScheduler":
        ways.insert(0, f"num_inference_steps={enough} or more")
    raise ValueError(
        f"{num_inference_steps} steps at strength {strength} make no step, and no picture; pass "
        f"{', or '.join(ways)}"
    )


def look_at_settings(
    pipe: Any, found: Attachment, result: Any, generator: Any = None, eta: float | None = None
) -> None:
    """Called once per call of every pipeline, with its scheduler and guidance set."""
    steps, found.steps = found.steps, None
    check_the_adapter_has_a_step(found, len(pipe.scheduler.timesteps) if steps is None else steps)
    problems = {
        "scheduler": about_scheduler(pipe.scheduler, found.recipe),
        "guidance": about_guidance(pipe, found.recipe),
        "steps": about_steps(len(pipe.scheduler.timesteps), steps, found.recipe),
        "eta": about_eta(eta, found.recipe),
    }
    for kind, problem in problems.items():
        warn_once(found, kind, problem)


def check_the_adapter_has_a_step(found: Attachment, steps: int) -> None:
    """Raises ValueError where the teacher would make all steps of a call."""
    if found.beginning is not None and steps <= found.teacher_first_steps:
        raise ValueError(
            f"teacher_first_steps={found.teacher_first_steps} leaves the adapter none of the "
            f"{steps} steps; pass num_inference_steps={found.teacher_first_steps + 1} or more, or "
            "attach it with fewer teacher_first_steps"
        )


def look_at_negative_prompt(pipe: Any, found: Attachment, said: Mapping[str, Any]) -> None:
    """`said` are the arguments of the call by name."""
    if found.teacher_first_steps:
        return  # the teacher's steps are guided
    warn_once(found, "negative prompt", about_negative_prompt(pipe, said))


def about_negative_prompt(pipe: Any, said: Mapping[str, Any]) -> str | None:
    scale = said.get("guidance_scale")
    names = [name for name in NEGATIVE if not is_empty(said.get(name))]
    if not names or not isinstance(scale, Real):
        return None
    if pipe.unet.config.time_cond_proj_dim is not None:
        return f"{names[0]} has no effect: this U-Net is told its guidance; leave it out"
    if float(scale) > 1:
        return None
    return (
        f"{names[0]} has no effect at guidance_scale={scale}; leave it out, or pass a "
        "guidance_scale a little above 1, such as 1.5"
    )


def is_empty(prompt: Any) -> bool:
    if isinstance(prompt, list | tuple):
        return all(map(is_empty, prompt))
    return prompt is None or (isinstance(prompt, str) and not prompt.strip())


def about_scheduler(scheduler: Any, recipe: Recipe) -> str | None:
    expected = scheduler_overrides(recipe)
    is_right_class = isinstance(scheduler, getattr(diffusers, recipe.scheduler))
    if is_right_class and all(
        scheduler.config.get(name) == value for name, value in expected.items()
    ):
        return None
    arguments = "".join(f", {name}={value!r}" for name, value in expected.items())
    return (
        f"the pipeline's scheduler, {type(scheduler).__name__}, is not as the adapter was trained "
        "for; set it back: pipe.scheduler = "
        f"diffusers.{recipe.scheduler}.from_config(pipe.scheduler.config{arguments})"
    )


def about_guidance(pipe: Any, recipe: Recipe) -> str | None:
    # what the caller said, not the guidance of a teacher that makes the first steps
    scale = vars(pipe).get("_guidance_scale")
    limit = max(recipe.guidance_scale, MODERATE_GUIDANCE)
    # the network is told the scale, and was trained on a range
    if pipe.unet.config.time_cond_proj_dim is not None:
        limit = max(limit, *recipe.trained_guidance_scale)
    if scale is None or scale <= limit:
        return None
    return (
        f"guidance_scale={scale} ruins few-step pictures: the adapter has guidance inside already; "
        f"pass guidance_scale={recipe.guidance_scale}"
    )


def about_steps(num_timesteps: int, steps: int | None, recipe: Recipe) -> str | None:
    """Deterministic methods need their own numbers of steps, others suffer only from many more."""
    trained = recipe.num_inference_steps
    if recipe.scheduler == "DDIMScheduler":
        is_wrong = num_timesteps not in trained
    else:
        is_wrong = (num_timesteps if steps is None else steps) > 2 * max(trained)
    if not is_wrong:
        return None
    return (
        f"{num_timesteps} steps: the adapter was trained to draw in "
        f"{', '.join(map(str, trained))}, and other numbers make worse pictures, not better ones; "
        f"pass num_inference_steps={recipe.usual_steps}"
    )


def about_eta(eta: float | None, recipe: Recipe) -> str | None:
    if not recipe.eta or eta:
        return None
    return (
        f"the adapter was trained to be played with noise between the steps; pass eta={recipe.eta}"
    )


def warn_once(found: Attachment, kind: str, problem: str | None) -> None:
    if problem is None or kind in found.warned:
        return
    found.warned.add(kind)
    warnings.warn(problem, UserWarning, stacklevel=frames_to_the_caller())


def frames_to_the_caller() -> int:
    """The stack level of the line that called the pipeline, for a warning given one function
    above.
    """
    libraries = ("lcm", "pipelines", "diffusers", "torch")
    level, frame = 1, sys._getframe(1)
    while (
        frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] in libraries
    ):
        level, frame = level + 1, frame.f_back
    return level
