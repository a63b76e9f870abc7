"""What to say of the use of what a run made, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lcm.adapter.recipe import Recipe
from lcm.publish.code import Code, View
from lcm.publish.program_words import other_tools
from lcm.publish.wording import Wording
from lcm.system.text import code


def advice(made: Code, view: View, words: Wording, w_embedding: bool) -> str:
    """How to use the result with this toolkit and with other programs, a paragraph a line."""
    attach = code(f"lcm.attach(pipe, {made.adapters(view)})")
    return f"""With the toolkit that made it, {attach} {words.attach}.

{other_tools(made.recipe, made.file, w_embedding)}

{guidance_advice(made.recipe, w_embedding)}"""


def guidance_range(recipe: Recipe) -> str:
    """The guidance of training, such as "7.5" or "2 to 10"."""
    low, high = recipe.trained_guidance_scale
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def styles_in_words(facts: Sequence[dict[str, Any]]) -> str:
    """The style LoRAs of a recipe, such as "`ink` (weight 0.8) and `oil` (weight 1)"."""
    return " and ".join(f"{code(style['file'])} (weight {style['weight']:g})" for style in facts)


def guidance_advice(recipe: Recipe, w_embedding: bool) -> str:
    """Which guidance_scale to pass, and why."""
    guidance = guidance_range(recipe)
    if w_embedding:
        return (
            f"`guidance_scale` is told to the U-Net, which was trained with {guidance}; it "
            "costs nothing."
        )
    if recipe.guidance_scale > 1:
        return (
            "This adapter leaves guidance to the pipeline: `guidance_scale` (try "
            f"{recipe.guidance_scale:g}) and negative prompts work as with the base model, at two "
            "network calls a step."
        )
    if max(recipe.trained_guidance_scale) == 1:
        return (
            f"Keep `guidance_scale` at {recipe.guidance_scale:g}: it was trained without guidance."
        )
    return (
        f"Keep `guidance_scale` at {recipe.guidance_scale:g}: guidance of {guidance} is already "
        "in the weights."
    )
