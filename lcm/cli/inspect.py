"""What an adapter file is, and what will load it."""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lcm.cli.arguments import add_input

if TYPE_CHECKING:
    from lcm.formats.factors import Adapter

HELP = "say what an adapter file is and what will load it"
EXAMPLE = "lcm inspect lora.safetensors"
FAMILIES = {768: "SD 1.x", 1024: "SD 2.x", 2048: "SDXL"}
IDENTITY = ("modelspec.", "ss_base_model_version", "ss_v2", "ss_output_name", "ss_network_")


def configure(parser: argparse.ArgumentParser) -> None:
    add_input(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    from lcm.adapter.locate import find
    from lcm.adapter.names import is_full
    from lcm.formats.read import read_adapter

    if is_full(args.file):
        raise ValueError(
            f"{args.file} holds a whole U-Net, not an adapter; lcm.attach puts it in the place of "
            "the pipeline's own"
        )
    file = find(args.file)
    adapter = read_adapter(file, args.alpha)
    facts = {"file": str(file), **describe(adapter), **programs(adapter, file)}
    said = json.dumps(facts, indent=2).splitlines() if args.json else lines(facts)
    print(*said, sep="\n")
    return 1 if adapter.problems else 0


def describe(adapter: Adapter) -> dict[str, Any]:
    """What the file holds, as JSON has it."""
    from lcm.adapter.names import COMPONENTS
    from lcm.adapter.recipe import RECIPE_KEY

    width = adapter.text_width
    return {
        "layouts": dict(adapter.layouts),
        "components": {
            name: component(part) for name in COMPONENTS if (part := adapter.component(name))
        },
        "family": FAMILIES.get(width, "other") if width else "unknown: no layer reads the text",
        "text_width": width,
        "recipe": json.loads(adapter.header[RECIPE_KEY]) if RECIPE_KEY in adapter.header else None,
        "identity": {
            key: value for key, value in sorted(adapter.header.items()) if key.startswith(IDENTITY)
        },
        "notes": adapter.notes,
        "problems": adapter.problems,
    }


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


def programs(adapter: Adapter, file: Any) -> dict[str, Any]:
    """What the programs take of the U-Net's layers, and what to do."""
    from dataclasses import asdict

    from lcm.adapter.recipe import RECIPE_KEY
    from lcm.formats.programs import what_takes

    count = len(adapter.component("unet"))
    found = what_takes(adapter, file)
    diffusers = next(iter(found.values()))
    whole = diffusers.count == count and not diffusers.misscaled and not diffusers.error
    attach = "yes" if whole else "no: it loads what diffusers loads"
    if whole and RECIPE_KEY not in adapter.header:
        attach = "with recipe=Recipe(...): the file has none; lcm repair --objective lcm adds one"
    broken = not whole or any(
        taken.count < count - 1 or taken.misscaled for taken in found.values()
    )
    return {
        "unet_layers": count,
        "programs": {k: asdict(v) for k, v in found.items()},
        "attach": attach,
        "repair": broken,
    }


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
    text += [f"  header     {key}: {value}" for key, value in facts["identity"].items()]
    text += ["", f"  {'program':<28} takes of the U-Net's {facts['unet_layers']} layers"]
    text += [f"  {name:<28} {taken_line(taken)}" for name, taken in facts["programs"].items()]
    text.append(f"  {'lcm.attach':<28} {facts['attach']}")
    text += [f"note: {note}" for note in facts["notes"]]
    text += [f"problem: {problem}" for problem in facts["problems"][:20]]
    if len(facts["problems"]) > 20:
        text.append(f"and {len(facts['problems']) - 20} more problems; --json lists all")
    if facts["repair"] and not facts["problems"]:
        text += ["", "run lcm repair: it writes a file that they take"]
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
        f"prediction, made from {recipe.get('teacher')}"
    )


def taken_line(taken: dict[str, Any]) -> str:
    if taken["error"]:
        return f"none: {taken['error']}"
    wrong = f", {taken['misscaled']} of them with a wrong strength" if taken["misscaled"] else ""
    missing = f"; left out without an error: {taken['missing']}" if taken["missing"] else ""
    return f"{taken['count']}{wrong}{missing}"
