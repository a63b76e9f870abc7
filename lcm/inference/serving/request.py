"""What is asked of a pipeline: one picture."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from lcm.adapter.recipe import CallDefaults, Recipe
from lcm.inference.arguments import check_arguments

REFUSED = {
    "generator": "it follows from the seed",
    "num_images_per_prompt": "a request is one picture; submit it again with another seed",
    "return_dict": "the result is the picture",
    "cross_attention_kwargs": (
        "it changes networks that requests share; set the weights of adapters on the pipeline"
    ),
}
"""Arguments of the pipelines' calls, and why."""


@dataclass(frozen=True)
class Request:
    """One picture. None stands for what the recipe says, without one 4 steps, guidance_scale 1 and
    eta 0; of `negative_prompt`, `height` and `width` for what the pipeline does without them.
    `options` are other arguments of the pipeline's call.
    """

    prompt: str
    seed: int = 0
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    negative_prompt: str | None = None
    eta: float | None = None
    height: int | None = None
    width: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def arguments(self, pipe: Any, recipe: Recipe | None) -> dict[str, Any]:
        """The arguments of the pipeline's call. Raises TypeError or ValueError for what it would
        pass over in silence or misunderstand.
        """
        defaults = recipe.call_defaults() if recipe else CallDefaults()
        steps, guidance_scale = self.num_inference_steps, self.guidance_scale
        if steps is None:
            steps = defaults.num_inference_steps
        if guidance_scale is None:
            guidance_scale = defaults.guidance_scale
        if not isinstance(self.prompt, str):
            raise TypeError(
                "prompt must be one string, a request is one picture; got "
                f"{type(self.prompt).__name__}"
            )
        if not isinstance(steps, int) or steps < 1:
            raise ValueError(f"num_inference_steps must be a positive integer; got {steps!r}")
        if not isinstance(guidance_scale, numbers.Real) or not math.isfinite(guidance_scale):
            raise ValueError(f"guidance_scale must be a finite number; got {guidance_scale!r}")
        if not isinstance(self.seed, numbers.Integral) or not -(2**63) <= self.seed < 2**64:
            raise ValueError(f"seed must be an integer of 64 bits; got {self.seed!r}")
        eta = defaults.eta if self.eta is None else self.eta
        perhaps = {
            "negative_prompt": self.negative_prompt,
            "height": self.height,
            "width": self.width,
            "eta": eta or None,
        }
        own = {
            "prompt": self.prompt,
            "num_inference_steps": steps,
            "guidance_scale": guidance_scale,
            "generator": torch.Generator().manual_seed(int(self.seed)),
            **{name: value for name, value in perhaps.items() if value is not None},
        }
        self.check_options(pipe, own)
        return {**self.options, **own}

    def check_options(self, pipe: Any, own: Mapping[str, Any]) -> None:
        """Raises TypeError or ValueError for an option that the call lacks, or that is not the
        request's to set.
        """
        for name in self.options:
            if name in self.__dataclass_fields__:
                raise ValueError(f"options: {name!r} is a field of Request; set it there")
            if name in REFUSED:
                raise ValueError(
                    f"options: {name!r} cannot be set for one request: {REFUSED[name]}"
                )
        stock_class = getattr(pipe, "stock_class", type(pipe))
        check_arguments(stock_class, [*own, *self.options], type(pipe).__name__)
