"""The first steps of a call by the teacher: the few-step adapter is off, the guidance is the
teacher's. After them the adapter is on, with the guidance of the call.

A pipeline decides once, before its first step, whether it asks the U-Net for both halves of
guidance. Here it asks for both in every step. Hooks around the U-Net make of the two the one
prediction that the guidance of the step gives, and hand it out twice, so that the pipeline's own
guidance, which some keep where nobody can change it, changes nothing. Where guidance is 1, the half
that it leads away from is not computed at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import diffusers
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from lcm.adapter.lora import adaptable, lora_modules
from lcm.adapter.recipe import Recipe
from lcm.inference.call_defaults import is_off
from lcm.inference.state import Attachment, own_attachment, set_scaling

KINDS = ("", "Img2Img", "Inpaint", "ControlNet", "ControlNetImg2Img", "ControlNetInpaint")
PIPELINES = tuple(
    getattr(diffusers, f"StableDiffusion{family}{kind}Pipeline")
    for family in ("", "XL")
    for kind in KINDS
)
"""Those whose U-Net gets the half that guidance leads away from before the one it leads to, and
nothing besides.
"""
GUIDANCE = 7.5
"""Of the teacher of an adapter that does not say it: the default of pipelines."""


def check_can_begin(pipe: Any, lead: str | None, steps: Any) -> None:
    """Raises ValueError where the teacher cannot make the first `steps` of calls, or for a number
    that is none.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or not 0 <= steps <= 1000:
        raise ValueError(
            f"teacher_first_steps must be a whole number from 0 to 1000, such as 1; got {steps!r}"
        )
    if steps and lead is None:
        raise ValueError(
            "teacher_first_steps: a whole U-Net has no adapter to switch off; leave it out"
        )
    if steps:
        check_kind(pipe)


def check_kind(pipe: Any) -> None:
    """Raises ValueError for a pipeline whose calls of the U-Net are not known to be two halves."""
    if not isinstance(pipe, PIPELINES):
        raise ValueError(
            "teacher_first_steps works with the text-to-image, image-to-image, inpainting and "
            f"ControlNet pipelines of Stable Diffusion and SDXL, not with {type(pipe).__name__}; "
            "leave it out, or pass 0"
        )


def teacher_guidance(recipe: Recipe, said: float) -> float:
    """The guidance of the teacher's steps: the one that the adapter was trained with, the middle of
    a range; what the call says where that was left to the pipeline.
    """
    if recipe.guidance_scale > 1:
        return said
    trained = recipe.trained_guidance_scale
    return sum(trained) / len(trained) if trained else GUIDANCE


@contextmanager
def by_the_teacher(pipe: Any, found: Attachment) -> Iterator[None]:
    """For the duration of a call of the pipeline, its U-Net does what this module says, where the
    attachment asks for it. Raises ValueError for a pipeline or a state that it does not know.
    """
    asks = found.teacher_first_steps and found.lead is not None and found.beginning is None
    if not asks or is_off(pipe, found):
        yield
        return
    check_kind(pipe)
    found.beginning = Beginning(pipe, found, str(found.lead))
    try:
        yield
    finally:
        found.beginning.end()
        found.beginning = None


class Beginning:
    """The U-Net of a pipeline during one call: what is done around it, and undone by `end`."""

    def __init__(self, pipe: Any, found: Attachment, lead: str) -> None:
        self.pipe, self.recipe, self.left = pipe, found.recipe, found.teacher_first_steps
        layers = [
            layer for layer in lora_modules(adaptable(pipe)["unet"]).values() if lead in layer.r
        ]
        if any(layer.merged for layer in layers):
            raise ValueError(
                "teacher_first_steps: the adapter is fused into the weights and cannot be switched "
                "off; call pipe.unfuse_lora(components=['unet']) first"
            )
        self.scales = [(layer, lead, float(layer.scaling[lead])) for layer in layers]
        self.hooks = [
            pipe.unet.register_forward_pre_hook(self.before, with_kwargs=True),
            pipe.unet.register_forward_hook(self.after),
        ]

    def switch(self, *, on: bool) -> None:
        """The adapter keeps the weight that its user gave it."""
        for layer, name, scale in self.scales:
            set_scaling(layer, name, scale if on else 0.0)

    def end(self) -> None:
        """Leaves the U-Net as it was, wherever the call ended."""
        for hook in self.hooks:
            hook.remove()
        self.switch(on=True)

    @property
    def guidance(self) -> float:
        """That of the step at hand."""
        return teacher_guidance(self.recipe, self.said) if self.left else self.said

    @property
    def said(self) -> float:
        """What the call asked for."""
        return float(vars(self.pipe)[OwnGuidance.name])

    def before(self, unet: Any, args: Any, kwargs: Any) -> Any:
        """Of a step without guidance, the half of every tensor that is computed."""
        if self.left:
            self.switch(on=False)
        if not self.pipe.do_classifier_free_guidance or self.guidance > 1:
            return None
        rows = len(args[0] if args else kwargs["sample"])

        def second_half(value: Any) -> Any:
            is_whole = isinstance(value, Tensor) and value.ndim > 0 and len(value) == rows
            return value[rows // 2 :] if is_whole else value

        return tree_map(second_half, (args, kwargs))

    def after(self, unet: Any, args: Any, output: Any) -> Any:
        """Both halves alike: what guidance makes of them."""
        guidance = self.guidance
        if self.left:
            self.left -= 1
            self.switch(on=True)
        is_own = guidance == self.said == self.pipe.guidance_scale
        if is_own or not self.pipe.do_classifier_free_guidance:
            return None  # the pipeline makes of them what it always does
        predicted = output[0]
        if guidance > 1:
            away, to = predicted.chunk(2)
            predicted = away + guidance * (to - away)
        both = torch.cat([predicted, predicted])
        return (both, *output[1:]) if isinstance(output, tuple) else type(output)(sample=both)


class OwnGuidance:
    """`_guidance_scale` of a pipeline, which its call sets to what the caller said, or left out.
    From it the call knows whether there is guidance at all: while a teacher begins, its own counts.
    """

    name = "_guidance_scale"

    def __get__(self, pipe: Any, owner: Any) -> float | Self:
        if pipe is None:
            return self
        if self.name not in vars(pipe):
            raise AttributeError(self.name)
        said: float = vars(pipe)[self.name]
        found = own_attachment(pipe)
        if found is None or found.beginning is None:
            return said
        return max(said, teacher_guidance(found.recipe, said))

    def __set__(self, pipe: Any, value: float) -> None:
        vars(pipe)[self.name] = value
