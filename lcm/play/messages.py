"""What a page asks for, as requests: nothing of a message is taken before it is looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from lcm.adapter.names import LARGEST_WEIGHT
from lcm.adapter.recipe import Recipe
from lcm.inference.call_warnings import about_steps
from lcm.inference.first_steps import GUIDANCE
from lcm.inference.serving import Request
from lcm.play.stage import Loaded, Look, Stage
from lcm.system.text import plain
from lcm.system.values import Rule, number, optional, text, whole

MOST_STEPS = 150
FEW, MANY = 8, 50
"""Where the sliders of steps end: with a few-step adapter, and with the teacher."""
TEACHER_STEPS = 25
LARGEST_GUIDANCE = 20
FIX = "reload the page"
RULES: dict[str, Rule] = {
    "prompt": text(4000),
    "negative": text(4000),
    "seed": whole(0, 2**53),  # which JavaScript counts to
    "steps": whole(1, MOST_STEPS),
    "guidance": number(0, LARGEST_GUIDANCE),
    "strength": number(0, 1),
    "lead": optional(text(100)),
}


def checked(
    message: Mapping[str, Any], name: str, where: str = "of the message", fix: str = FIX
) -> Any:
    """A value of a message. Raises ValueError naming it, for what it cannot be."""
    RULES[name].check(message.get(name), f"{name} {where}", fix)
    return message[name]


def answers(recipe: Recipe | None) -> bool:
    """Whether guidance, and with it negative prompts, is for the page to set: with the teacher, and
    with an adapter that was trained to leave it to the pipeline.
    """
    return recipe is None or recipe.guidance_scale > 1


def look_of(message: Mapping[str, Any], adapters: Mapping[str, Loaded]) -> Look:
    """The look that a message names. Raises ValueError for an adapter that is not there, and for
    two few-step adapters at once, which have one scheduler each.
    """
    lead, weights = checked(message, "lead"), message.get("weights")
    if not isinstance(weights, dict) or len(weights) > 2 * len(adapters) + 1:
        raise ValueError(f"weights of the message: not an object of weights by adapter; {FIX}")
    for name, weight in weights.items():
        number(-LARGEST_WEIGHT, LARGEST_WEIGHT).check(weight, f"the weight of {plain(name)}", FIX)
    for name in (*weights, *([] if lead is None else [lead])):
        if name not in adapters:
            raise ValueError(f"there is no adapter {plain(name, 60)!r} here; {FIX}")
    if lead is not None and (adapters[lead].recipe is None or not weights.get(lead)):
        raise ValueError(f"{lead} draws nothing so: give it a weight, or choose the teacher")
    styles = {n: w for n, w in weights.items() if w and adapters[n].recipe is None}
    chosen = {lead: weights[lead], **styles} if lead is not None else styles
    return Look(lead, tuple((name, float(weight)) for name, weight in chosen.items()))


@dataclass(frozen=True)
class Wish:
    """A picture that a page asks for, the class of the `scheduler` that samples it, and a `note` on
    what does not suit it.
    """

    look: Look
    request: Request
    scheduler: str
    note: str | None = None


def scheduler_of(stage: Stage, recipe: Recipe | None) -> str:
    """The class that samples with a recipe, None for the teacher."""
    return type(stage.own_scheduler).__name__ if recipe is None else recipe.scheduler


def wish(stage: Stage, message: Mapping[str, Any], image: Image.Image | None = None) -> Wish:
    """What a message asks for; `image` is what the picture begins with. Raises ValueError for what
    the page does not send.
    """
    adapters = dict(stage.adapters)
    look = look_of(message, adapters)
    recipe = adapters[look.lead].recipe if look.lead is not None else None
    options = {"image": image, "strength": float(checked(message, "strength"))} if image else {}
    steps = checked(message, "steps")
    request = request_of(
        stage,
        recipe,
        prompt=checked(message, "prompt"),
        negative=checked(message, "negative"),
        seed=checked(message, "seed"),
        steps=steps,
        guidance=float(checked(message, "guidance")),
        options=options,
    )
    note = None if recipe is None else about_steps(steps, steps, recipe)
    return Wish(look, request, scheduler_of(stage, recipe), note)


def request_of(
    stage: Stage,
    recipe: Recipe | None,
    *,
    prompt: str,
    negative: str,
    seed: int,
    steps: int,
    guidance: float,
    options: Mapping[str, Any] | None = None,
) -> Request:
    """One picture of a look with this recipe, None for the teacher. Guidance and a negative prompt
    are left out where nothing answers to them.
    """
    scale = guidance if answers(recipe) else (recipe.guidance_scale if recipe else guidance)
    height, width = (None, None) if options else stage.side
    return Request(
        prompt,
        seed=seed,
        num_inference_steps=steps,
        guidance_scale=scale,
        negative_prompt=negative if negative.strip() and scale > 1 else None,
        eta=recipe.eta if recipe else 0.0,
        clip_skip=recipe.clip_skip if recipe else None,
        height=height,
        width=width,
        options=options or {},
    )


def teacher_guidance(adapters: Mapping[str, Loaded]) -> float:
    """What the teacher is compared with: the guidance that the first few-step adapter learned."""
    recipes = [loaded.recipe for loaded in adapters.values() if loaded.recipe]
    learned = recipes[0].teacher_guidance(told=False) if recipes else GUIDANCE
    return min(max(learned, 1.0), LARGEST_GUIDANCE) if learned > 1 else GUIDANCE


def facts(stage: Stage) -> dict[str, Any]:
    """What the page has to know of the stage to show its controls, as JSON has it."""
    adapters = dict(stage.adapters)
    return {
        "base": plain(stage.base),
        "side": list(stage.side),
        "teacher": {
            "steps": TEACHER_STEPS,
            "most": MANY,
            "guidance": teacher_guidance(adapters),
        },
        "adapters": [of_adapter(loaded) for loaded in adapters.values()],
    }


def of_adapter(loaded: Loaded) -> dict[str, Any]:
    """A few-step adapter or a style, as the page shows it."""
    shown: dict[str, Any] = {
        "name": loaded.name,
        "source": loaded.source,
        "weight": loaded.weight,
        "few": loaded.recipe is not None,
    }
    if (recipe := loaded.recipe) is not None:
        shown |= {
            "objective": plain(recipe.objective),
            "steps": recipe.usual_steps,
            "most": max(FEW, *recipe.num_inference_steps),
            "answers": answers(recipe),
            "guidance": recipe.guidance_scale,
        }
    return shown
