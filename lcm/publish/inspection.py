"""What an adapter file is and what will load it: facts as JSON has them, and lines for people."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from lcm.system.text import command_line

if TYPE_CHECKING:
    from lcm.adapter.files import AdapterFile
    from lcm.formats.factors import Adapter

SHOWN = 20
"""Problems that are printed."""
IDENTITY = ("modelspec.", "ss_base_model_version", "ss_v2", "ss_output_name", "ss_network_")


def inspect(file: AdapterFile, alpha: float | None = None) -> dict[str, Any]:
    """All that can be said of a file, as JSON has it. `alpha` is that of layers that state none.
    Raises AdapterError where nothing in it can be understood.
    """
    from lcm.formats.read import understand

    adapter = understand(file, alpha)
    return {"file": str(file.path), **describe(adapter, file.path.name), **programs(adapter, file)}


def describe(adapter: Adapter, name: str) -> dict[str, Any]:
    """What the file of this name holds, as JSON has it."""
    from lcm.adapter.names import COMPONENTS
    from lcm.formats.factors import FAMILIES

    width = adapter.text_width
    return {
        "layouts": dict(adapter.layouts),
        "components": {
            name: component(part) for name in COMPONENTS if (part := adapter.component(name))
        },
        "family": FAMILIES.get(width, "other") if width else "unknown: no layer reads the text",
        "text_width": width,
        "recipe": recipe_of(adapter),
        "played_by": played_by(adapter, name),
        "identity": {
            key: value for key, value in sorted(adapter.header.items()) if key.startswith(IDENTITY)
        },
        "notes": adapter.notes,
        "warnings": adapter.warnings,
        "problems": adapter.problems,
    }


def recipe_of(adapter: Adapter) -> dict[str, Any] | None:
    """The recipe with all its fields, those of newer versions too; None without one, and for one
    that cannot be used, which is among the problems.
    """
    from lcm.adapter.recipe import RECIPE_KEY

    if RECIPE_KEY not in adapter.header or RECIPE_KEY in adapter.unusable:
        return None
    return {**json.loads(adapter.header[RECIPE_KEY])}


def played_by(adapter: Adapter, name: str) -> dict[str, str]:
    """How other programs are set for the file of this name; {} without a recipe that can be
    used.
    """
    from lcm.adapter.recipe import RECIPE_KEY, Recipe
    from lcm.publish.other_programs import comfy_settings
    from lcm.publish.program_words import played_by

    if RECIPE_KEY in adapter.unusable or (recipe := Recipe.from_header(adapter.header)) is None:
        return {}
    settings = comfy_settings(recipe, w_embedding=False)
    if settings is None:
        return {}
    said = (words.partition(": ") for words in played_by(recipe, settings, name))
    return {program: how for program, _, how in said}


def component(part: dict[str, Any]) -> dict[str, Any]:
    """What the layers of a component have: counts of ranks, alphas, precisions and targets."""

    def counted(values: Any) -> dict[str, int]:
        return {
            f"{value:g}" if isinstance(value, float) else str(value): n
            for value, n in Counter(values).most_common()
        }

    return {
        "layers": len(part),
        "ranks": counted(f.rank for f in part.values()),
        "alphas": counted(f.alpha for f in part.values()),
        "dtypes": counted(str(f.up.dtype).removeprefix("torch.") for f in part.values()),
        "targets": counted(target(name) for name in part),
    }


def target(name: str) -> str:
    """The end of a layer's name by which training flags choose it: what follows the last numbered
    block.
    """
    return (
        re.split(r"(?:blocks|resnets|attentions|layers)\.\d+\.", name)[-1]
        .removeprefix("attn1.")
        .removeprefix("attn2.")
    )


def programs(adapter: Adapter, file: AdapterFile) -> dict[str, Any]:
    """What the programs take of the U-Net's layers, and what to do."""
    from dataclasses import asdict

    from lcm.formats.programs import what_takes

    count = len(adapter.component("unet"))
    found = what_takes(adapter, file.path)
    diffusers = next(iter(found.values()))
    whole = diffusers.count == count and not diffusers.misscaled and not diffusers.error
    broken = not whole or any(
        taken.count < count - 1 or taken.misscaled for taken in found.values()
    )
    return {
        "unet_layers": count,
        "programs": {k: asdict(v) for k, v in found.items()},
        "attach": attach(adapter, file, whole),
        "repair": what_to_do(file) if broken or adapter.problems else None,
    }


def what_to_do(file: AdapterFile) -> str:
    """The way on; libraries that a sound file needs not are loaded for it."""
    from lcm.formats.advice import way_on

    return way_on(file)


def attach(adapter: Adapter, file: AdapterFile, whole: bool) -> str:
    """Whether `lcm.attach` takes the file, and what it needs besides."""
    from lcm.adapter.recipe import RECIPE_KEY

    if any(problem not in adapter.played for problem in adapter.problems):
        return "no: the problems below"
    if not whole:
        return "no: it loads what diffusers loads"
    if RECIPE_KEY in adapter.header:
        return "yes"
    text = "the file has no recipe: with recipe=lcm.Recipe.lcm_lora(pipe) if it is an LCM-LoRA"
    # of other widths the base has to be named
    if adapter.text_width in (768, 2048) and not adapter.problems:
        words = ["lcm", "repair", str(file.path), "OUT", "--objective", "lcm"]
        text += f"; one is added by: {command_line(words)}"
    return text


def lines(facts: dict[str, Any]) -> list[str]:
    """The facts as lines for people."""
    text = [facts["file"]]
    layouts = facts["layouts"]
    if len(layouts) == 1:
        text.append(f"  layout     {next(iter(layouts))}")
    else:
        text.append(
            "  layout     mixed: "
            + "; ".join(f"{count} matrices {name}" for name, count in layouts.items())
        )
    for name, part in facts["components"].items():
        ranks, alphas, dtypes = (short(part[key]) for key in ("ranks", "alphas", "dtypes"))
        text.append(f"  {name:<10} {part['layers']} layers, rank {ranks}, alpha {alphas}, {dtypes}")
        text.append(
            "             "
            + ", ".join(f"{target} {count}" for target, count in part["targets"].items())
        )
    width = f" (text width {facts['text_width']})" if facts["text_width"] else ""
    text.append(f"  family     {facts['family']}{width}")
    text.append(f"  recipe     {recipe_line(facts['recipe'])}")
    text += [f"  {program:<10} {how}" for program, how in facts["played_by"].items()]
    text += [f"  header     {key}: {value}" for key, value in facts["identity"].items()]
    text += ["", f"  {'program':<28} takes of the U-Net's {facts['unet_layers']} layers"]
    text += [f"  {name:<28} {taken_line(taken)}" for name, taken in facts["programs"].items()]
    text.append(f"  {'lcm.attach':<28} {facts['attach']}")
    text += [f"note: {note}" for note in facts["notes"]]
    text += [f"warning: {warning}" for warning in facts["warnings"]]
    text += [f"problem: {problem}" for problem in facts["problems"][:SHOWN]]
    if len(facts["problems"]) > SHOWN:
        text.append(f"and {len(facts['problems']) - SHOWN} more problems; --json lists all")
    if facts["repair"]:
        text += ["", facts["repair"]]
    return text


def short(counts: dict[str, int]) -> str:
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{value} ({count})" for value, count in counts.items())


def recipe_line(recipe: dict[str, Any] | None) -> str:
    if recipe is None:
        return "none"
    steps = recipe.get("num_inference_steps") or ["?"]
    return (
        f"{recipe.get('objective')}: {recipe.get('scheduler')}, {steps[0]}-{steps[-1]} steps, "
        f"guidance_scale {recipe.get('guidance_scale')}, {recipe.get('prediction_type')} "
        f"prediction{recipe_more(recipe)}, made from {recipe.get('teacher')}"
    )


def recipe_more(recipe: dict[str, Any]) -> str:
    """What few recipes have, and playback needs: clip skip, chunks of prompts, and styles."""
    chunks, styles = recipe.get("prompt_chunks"), recipe.get("teacher_loras")
    more = ["left to the pipeline, as negative prompts are"] if keeps_guidance(recipe) else []
    more += [f"clip_skip {recipe['clip_skip']}"] if recipe.get("clip_skip") else []
    more += [f"prompts of {chunks} chunks"] if chunks not in (None, 1) else []
    if isinstance(styles, list) and styles:
        names = [str(style.get("file")) for style in styles if isinstance(style, dict)]
        more.append(f"beside {', '.join(names)}")
    return "".join(f", {each}" for each in more)


def keeps_guidance(recipe: dict[str, Any]) -> bool:
    """Whether guidance was left to the pipeline: of --preserve_cfg."""
    scale, trained = recipe.get("guidance_scale", 1), recipe.get("trained_guidance_scale") or [0]
    return bool(scale > 1 and max(trained) == 1)


def taken_line(taken: dict[str, Any]) -> str:
    if taken["error"]:
        return f"none: {taken['error']}"
    wrong = f", {taken['misscaled']} of them with a wrong strength" if taken["misscaled"] else ""
    missing = f"; left out without an error: {taken['missing']}" if taken["missing"] else ""
    return f"{taken['count']}{wrong}{missing}"
