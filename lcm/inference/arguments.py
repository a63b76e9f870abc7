"""What a stock pipeline's call takes, and what it would misunderstand or pass over in silence."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any

from lcm.system.registry import closest

CALLED_ELSEWHERE = {
    "cfg": "guidance_scale",
    "cfg_scale": "guidance_scale",
    "sampler": "scheduler",
    "n_iter": "num_images_per_prompt",
    "denoise": "strength",
    "denoising_strength": "strength",
}
"""Names of other programs for arguments of calls."""


def check_arguments(pipeline_class: Any, names: Iterable[str], shown: str) -> None:
    """Raises TypeError for a name that is no argument of the class's call, which would pass over
    it in silence; `shown` is what the message calls the pipeline.
    """
    known = accepted(pipeline_class)
    for name in names:
        if name not in known:
            raise TypeError(f"{shown} has no argument {name!r}.{hint(str(name), known)}")


def accepted(pipeline_class: Any) -> Mapping[str, inspect.Parameter]:
    """The arguments of the class's call, after the pipeline itself, in their order."""
    parameters = inspect.signature(pipeline_class.__call__).parameters
    return {name: parameter for name, parameter in parameters.items() if name != "self"}


def hint(name: str, known: Iterable[str]) -> str:
    """ " Did you mean 'x'?" for the argument that other programs call so, or that has all words of
    the name, or the nearest; an empty string when nothing is near.
    """
    names, words = list(known), set(name.split("_"))
    with_the_words = [other for other in names if words <= set(other.split("_"))]
    likely = [CALLED_ELSEWHERE.get(name), *with_the_words]
    found = next((other for other in likely if other in names), None)
    return f" Did you mean {found!r}?" if found else closest(name, names)


def whole(name: str, value: Any, most: int | None = None) -> int:
    """The value as an int. Raises ValueError for what is no positive integer, or above `most`."""
    if not isinstance(value, Integral) or isinstance(value, bool) or int(value) < 1:
        raise ValueError(f"{name} must be a positive integer; got {value!r}")
    if most is not None and int(value) > most:
        raise ValueError(f"{name} must be at most {most}; got {value}")
    return int(value)


def finite(name: str, value: Any) -> float:
    """The value as a float. Raises ValueError for what is no finite number."""
    if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number; got {value!r}")
    return float(value)


def own_sides(pipe: Any) -> tuple[int, int]:
    """Height and width in pixels that the pipeline draws at unless told otherwise. Raises
    ValueError where its U-Net states none.
    """
    size = pipe.unet.config.sample_size
    pair = tuple(size) if isinstance(size, list | tuple) else (size, size)
    if len(pair) != 2 or not all(isinstance(side, int) for side in pair):
        raise ValueError(
            f"height: the base states no side of its own (sample_size {size}); pass height and "
            "width"
        )
    height, width = pair
    return height * pipe.vae_scale_factor, width * pipe.vae_scale_factor


def both_sides(pipe: Any, height: Any, width: Any) -> dict[str, int]:
    """Height and width in pixels, none where neither is said. Of one alone stock pipelines of
    Stable Diffusion draw neither: the other is then the pipeline's own.

    Raises ValueError for what is no positive integer.
    """
    if height is None and width is None:
        return {}
    own = (0, 0) if None not in (height, width) else own_sides(pipe)
    return {
        "height": own[0] if height is None else whole("height", height),
        "width": own[1] if width is None else whole("width", width),
    }
