"""Warnings about calls that ruin few-step pictures, given while a pipeline with an adapter is
called.
"""

from __future__ import annotations

import itertools
import sys
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import diffusers

from lcm.adapter.recipe import Recipe
from lcm.inference.schedulers import scheduler_overrides
from lcm.inference.state import Attachment, attachment

MODERATE_GUIDANCE = 2.0
"""Up to here guidance on top of the guidance inside an adapter is a matter of taste: the official
model cards go so far.
"""


class Watched:
    """Stands in for one method of one pipeline object: calls it, then looks at its result and
    arguments.

    It goes along when the pipeline is copied or pickled, and does not keep it alive.
    """

    def __init__(self, pipe: Any, method: str, look: Callable[..., None]) -> None:
        self.pipe, self.method, self.look = weakref.ref(pipe), method, look

    def __call__(self, *args: Any, **options: Any) -> Any:
        pipe = self.pipe()
        result = getattr(type(pipe), self.method)(pipe, *args, **options)
        self.look(pipe, result, *args, **options)
        return result

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "pipe": self.pipe()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({**state, "pipe": weakref.ref(state["pipe"])})


def look_at_strength(
    pipe: Any, result: Any, num_inference_steps: int, strength: float, *args: Any, **options: Any
) -> None:
    """Raises ValueError when image-to-image would make no step at all: stock pipelines return an
    empty batch then.
    """
    found = attachment(pipe)
    if found is None:
        return
    found.steps = int(result[1])
    if found.steps < 1 and (start := options.get("denoising_start")) is not None:
        raise ValueError(
            f"{num_inference_steps} steps from denoising_start={start} on make no step, and no "
            "picture; pass more of them, or a lower denoising_start"
        )
    if found.steps < 1:
        enough = (
            f"num_inference_steps={enough_steps(strength)} or more, or " if strength > 0 else ""
        )
        raise ValueError(
            f"{num_inference_steps} steps at strength {strength} make no step, and no picture; "
            f"pass {enough}a higher strength"
        )


def enough_steps(strength: float) -> int:
    """The smallest num_inference_steps of which a stock image-to-image pipeline makes one."""
    return next(n for n in itertools.count(1) if int(n * strength) >= 1)


def look_at_settings(
    pipe: Any, result: Any, generator: Any = None, eta: float | None = None
) -> None:
    """Called once per call of every pipeline, with its scheduler and guidance set."""
    found = attachment(pipe)
    if found is None:
        return
    steps, found.steps = found.steps, None
    problems = {
        "scheduler": about_scheduler(pipe.scheduler, found.recipe),
        "guidance": about_guidance(pipe, found.recipe),
        "steps": about_steps(len(pipe.scheduler.timesteps), steps, found.recipe),
        "eta": about_eta(eta, found.recipe),
    }
    for kind, problem in problems.items():
        warn_once(found, kind, problem)


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
    scale = getattr(pipe, "_guidance_scale", None)
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


WATCHED: dict[str, Callable[..., None]] = {
    "get_timesteps": look_at_strength,
    "prepare_extra_step_kwargs": look_at_settings,
}


def watch(pipe: Any) -> None:
    """Looks at every call from now on. A method that somebody else has put on this very object is
    left alone.
    """
    for method, look in WATCHED.items():
        if hasattr(type(pipe), method) and method not in vars(pipe):
            setattr(pipe, method, Watched(pipe, method, look))


def unwatch(pipe: Any) -> None:
    for method in WATCHED:
        if isinstance(vars(pipe).get(method), Watched):
            delattr(pipe, method)
