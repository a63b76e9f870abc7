"""What is asked of a pipeline: one picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from numbers import Integral
from typing import Any

import numpy as np
import torch
from PIL import Image

from lcm.adapter.recipe import CallDefaults, Recipe
from lcm.inference.arguments import (
    accepted,
    both_sides,
    check_arguments,
    finite,
    own_sides,
    whole,
)
from lcm.models.prompts import check_clip_skip, check_text

REFUSED = {
    "generator": "it follows from the seed",
    "num_images_per_prompt": "a request is one picture; submit it again with another seed",
    "return_dict": "the result is the picture",
    "cross_attention_kwargs": (
        "it changes networks that requests share; set the weights of adapters on the pipeline"
    ),
}
"""Arguments of the pipelines' calls, and why."""


MAX_PIXELS = 4096 * 4096
"""The largest picture that an engine draws unless it is told otherwise."""

MOST_STEPS = 1000
"""Schedulers make lists of their steps, and the teachers' grids have no more."""

CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "num_inference_steps": partial(whole, most=MOST_STEPS),
    "guidance_scale": finite,
    "eta": finite,
}


@dataclass(frozen=True)
class Request:
    """One picture. None stands for what the recipe says, without one 4 steps, guidance_scale 1, eta
    0 and no clip_skip; of `negative_prompt` for none, of `height` and `width`, in pixels, for the
    side that the pipeline draws at. `options` are other arguments of the pipeline's call.
    """

    prompt: str
    seed: int = 0
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    negative_prompt: str | None = None
    eta: float | None = None
    clip_skip: int | None = None
    height: int | None = None
    width: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def arguments(
        self, pipe: Any, recipe: Recipe | None, max_pixels: int = MAX_PIXELS
    ) -> dict[str, Any]:
        """The arguments of the pipeline's call. Raises TypeError or ValueError for what it would
        pass over in silence or misunderstand.
        """
        self.check_options()
        for name in ("prompt", "negative_prompt"):
            value = getattr(self, name)
            if not isinstance(value, str) and not (value is None and name != "prompt"):
                raise TypeError(
                    f"{name} must be one string, a request is one picture; got "
                    f"{type(value).__name__}"
                )
            check_text(name, value)
        if not isinstance(self.seed, Integral) or not -(2**63) <= self.seed < 2**64:
            raise ValueError(f"seed must be an integer of 64 bits; got {self.seed!r}")
        own = {
            "prompt": self.prompt,
            **self.numbers(pipe, recipe),
            **both_sides(pipe, self.height, self.width),
            "generator": torch.Generator().manual_seed(int(self.seed)),
        }
        if self.negative_prompt is not None:
            own["negative_prompt"] = self.negative_prompt
        check_arguments(call_class(pipe), [*own, *self.options], type(pipe).__name__)
        self.check_size(pipe, own, max_pixels)
        return {**self.options, **own}

    def numbers(self, pipe: Any, recipe: Recipe | None) -> dict[str, Any]:
        """The numbers that a recipe has too. Raises ValueError for what is none."""
        own: dict[str, Any] = {}
        for name, default in vars(recipe.call_defaults() if recipe else CallDefaults()).items():
            said = getattr(self, name, self.options.get(name))
            value = default if said is None else said
            # those of a recipe are left out where the call has no such argument
            if value is not None and (name in accepted(call_class(pipe)) or said):
                own[name] = CHECKS[name](name, value) if name in CHECKS else value
        check_clip_skip(pipe, own.get("clip_skip"))
        return own

    def check_size(self, pipe: Any, own: Mapping[str, Any], max_pixels: int) -> None:
        """Raises ValueError for a picture of more pixels, whether they are asked for or given."""
        pixels = own["height"] * own["width"] if "height" in own else 0
        if not pixels and "height" in accepted(call_class(pipe)):
            pixels = math.prod(own_sides(pipe))
        pixels = max([pixels, *map(count_pixels, self.options.values())])
        if pixels > max_pixels:
            raise ValueError(
                f"the picture would have {pixels} pixels, this engine draws {max_pixels} at most; "
                "pass a smaller height and width, or image"
            )

    def check_options(self) -> None:
        """Raises TypeError or ValueError for an option that is not the request's to set."""
        if not isinstance(self.options, Mapping):
            raise TypeError(f"options must be a mapping; got {type(self.options).__name__}")
        for name in self.options:
            if name in self.__dataclass_fields__:
                raise ValueError(f"options: {name!r} is a field of Request; set it there")
            if name in REFUSED:
                raise ValueError(
                    f"options: {name!r} cannot be set for one request: {REFUSED[name]}"
                )


def call_class(pipe: Any) -> Any:
    """The class whose call has all arguments by name."""
    return getattr(pipe, "stock_class", type(pipe))


def count_pixels(image: Any) -> int:
    """Those of a picture, the largest of several; 0 for what is no picture."""
    if isinstance(image, list | tuple):
        return max(map(count_pixels, image), default=0)
    if isinstance(image, Image.Image):
        return image.width * image.height
    if isinstance(image, torch.Tensor) and image.ndim >= 3:
        return math.prod(image.shape[-2:])
    if isinstance(image, np.ndarray) and image.ndim >= 3:
        return math.prod(image.shape[-3:-1])
    return 0


def as_request(request: Any) -> Request:
    """The request, of a prompt one with defaults. Raises TypeError for anything else."""
    if isinstance(request, str):
        return Request(request)
    if not isinstance(request, Request):
        raise TypeError(f"pass a lcm.Request or a prompt; got {type(request).__name__}")
    return request
