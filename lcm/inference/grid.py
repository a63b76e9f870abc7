"""How many steps there are to choose from, where they begin, and how strong image-to-image has to
be for them.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

from lcm.adapter.recipe import Recipe
from lcm.diffusion.grid import steps_of_call
from lcm.inference.arguments import whole
from lcm.system.text import count


def knows_strength(scheduler: Any) -> bool:
    """Whether it takes its steps from the part of a grid below the strength, as the schedulers of
    consistency models do.
    """
    return "strength" in inspect.signature(scheduler.set_timesteps).parameters


def grid_size(scheduler: Any, original: int | None = None) -> int | None:
    """The most steps that the scheduler makes; None where it does not say. `original` is what a
    call has in the place of its `original_inference_steps`.
    """
    config = scheduler.config
    size = config.get("num_train_timesteps")
    if knows_strength(scheduler):
        size = original or config.get("original_inference_steps") or size
    return size if isinstance(size, int) else None


def check_steps(
    scheduler: Any, steps: Any, recipe: Recipe | None, original: int | None = None
) -> None:
    """Raises ValueError for a number of steps that is none, or more than the grid has. None is not
    looked at.
    """
    if steps is None:
        return
    most = grid_size(scheduler, original)
    if whole("num_inference_steps", steps) <= (most or math.inf):
        return
    advice = f"pass at most {most}"
    if recipe is not None:
        numbers = ", ".join(map(str, recipe.num_inference_steps))
        advice = (
            f"the adapter was trained to draw in {numbers}; pass "
            f"num_inference_steps={recipe.usual_steps}"
        )
    raise ValueError(
        f"num_inference_steps={steps} is more than the {most} steps of this pipeline's "
        f"{type(scheduler).__name__}; {advice}"
    )


def check_first_timestep(scheduler: Any, first: int, steps: int) -> None:
    """Raises ValueError for a scheduler that takes no timesteps, and for more steps than it has
    from `first` on.
    """
    name = type(scheduler).__name__
    if "timesteps" not in inspect.signature(scheduler.set_timesteps).parameters:
        raise ValueError(
            f"first_timestep: {name} begins at its own last timestep; leave it out, or use an "
            "adapter that is played with LCMScheduler or TCDScheduler"
        )
    try:
        steps_of_call(steps, first, scheduler.config)
    except ValueError as error:
        raise ValueError(f"first_timestep={first}: {error}") from error


def check_strength(scheduler: Any, steps: int, strength: float) -> None:
    """Raises ValueError where fewer than `steps` of the grid lie below `strength`."""
    most = grid_size(scheduler)
    below = None if most is None else int(most * strength)
    if most is None or below is None or steps <= below:
        return
    ways = [f"at most {count(below, 'step')}"] if below else []
    if steps <= most:
        ways.append(f"strength {enough_strength(steps, most)} or more")
    raise ValueError(
        f"num_inference_steps={steps} at strength {strength}: of the {most} steps that the adapter "
        f"knows, {below} lie below it; pass {', or '.join(ways)}"
    )


def enough_strength(steps: int, of: int) -> float:
    """The smallest strength, of two digits where `of` is 100 at most, of which int(of * strength)
    is `steps` or more.
    """
    parts = 100 if of <= 100 else 10000
    first = max(1, steps * parts // of - 1)
    return next(n / parts for n in range(first, parts + 1) if int(of * (n / parts)) >= steps)


def enough_steps(strength: float) -> int | None:
    """The smallest number of which int(number * strength) is 1 or more; None where there is none
    to speak of.
    """
    if not strength > 1e-6:
        return None
    first = max(1, math.floor(1 / strength) - 1)
    return next(n for n in range(first, first + 4) if int(n * strength) >= 1)
