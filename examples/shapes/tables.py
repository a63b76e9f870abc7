"""Writes the measured tables into an example's README, between its markers, from the raw results
beside it.

    python -m examples.shapes.tables
    python -m examples.shapes.tables --world patterns
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from examples.shapes.demo import table
from examples.shapes.render import WORLD
from examples.worlds import World, add_world_flag, load_world

BEST = ("best", "fast", "sharp", "sharp-guidance-5")
"""Raw results of the best adapters."""
NUMERALS = {3: "three", 4: "four"}


def read(name: str, world: World = WORLD) -> Any:
    return json.loads((world.folder / "results" / name).read_text(encoding="utf-8"))


def percent(row: dict[str, Any]) -> str:
    return f"{row['all_right']:.1%} ± {row['plus_minus']:.1%}"


def world_table(world: World = WORLD) -> str:
    number = NUMERALS[len(world.heads)]
    lines = [f"| | pictures | all {number} attributes right |", "|---|---|---|"]
    for name, row in read("world.json", world).items():
        if isinstance(row, dict):
            how = (
                f", {row['steps']} DDIM steps, guidance_scale {row['guidance_scale']:g}"
                if "steps" in row
                else ""
            )
            lines.append(f"| {name}{how} | {row['images']} | {percent(row)} |")
    return "\n".join(lines)


def recipe_table() -> str:
    runs = read("lcm_lora.json")
    lines = [
        "| seed | 1 step | 2 steps | 4 steps | 8 steps | NMSE at 1 step | minutes |",
        "|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        cells = " | ".join(percent(row) for row in run["rows"])
        lines.append(
            f"| {run['seed']} | {cells} | {run['rows'][0]['endpoint_nmse']:.3f} | "
            f"{run['minutes']:.1f} |"
        )
    return "\n".join(lines)


def best_table(name: str) -> str:
    """Every step count of one of the best adapters, and the teacher it must be held against."""
    lines = [
        "| seed | | steps | all three right | shape | color | diversity | NMSE |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for run in read(name):
        for row in run["rows"]:
            who = "teacher" if row.get("teacher") else "student"
            diversity = f"{row['diversity_ratio']:.2f}" if "diversity_ratio" in row else ""
            nmse = f"{row['endpoint_nmse']:.3f}" if "endpoint_nmse" in row else ""
            lines.append(
                f"| {run['seed']} | {who} | {row['steps']} | {percent(row)} | {row['shape']:.1%} | "
                f"{row['color']:.1%} | {diversity} | {nmse} |"
            )
        minutes = " + ".join(f"{m:.1f}" for m in run["minutes_in_all"])
        lines.append(f"| {run['seed']} | minutes | | {minutes} | | | | |")
    return "\n".join(lines)


def style_table() -> str:
    lines = ["| adapter | steps | in the style | right shape |", "|---|---|---|---|"]
    lines += [
        f"| {row['adapter']} | {row['steps']} | {row['in_style']:.1%} | {row['shape']:.1%} |"
        for row in read("style.json")
    ]
    return "\n".join(lines)


def fill(text: str, name: str, content: str) -> str:
    """Puts `content` between the markers of `name`. Raises ValueError when there is not one pair of
    them.
    """
    start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    if text.count(start) != 1 or text.count(end) != 1:
        raise ValueError(f"the README needs one pair of markers {start.strip()} and {end}")
    before, rest = text.split(start)
    return f"{before}{start}{content}\n{end}{rest.split(end)[1]}"


def filled(text: str, world: World = WORLD) -> str:
    """The README with every table as the raw results say."""
    contents = {"world": world_table(world)}
    if world is WORLD:
        contents |= example_tables()
    for name, content in contents.items():
        text = fill(text, name, content)
    return text


def example_tables() -> dict[str, str]:
    """What was distilled in the world of shapes."""
    return {
        "recipe": recipe_table(),
        "demo": table(read("demo.json")),
        **{name: best_table(f"{name}.json") for name in BEST},
        "style": style_table(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_world_flag(parser)
    world = load_world(parser.parse_args().world)
    path = world.folder / "README.md"
    text = filled(path.read_text(encoding="utf-8"), world)
    path.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
