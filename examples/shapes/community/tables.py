"""Writes the measured tables into the community's README, between its markers, from the raw results
beside it.

python -m examples.shapes.community.tables
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

from examples.shapes.community.experiment import (
    EVERY_MODEL,
    FEW,
    GUIDANCE_SCALES,
    STYLE_WEIGHTS,
    WEIGHTS,
    Cell,
    adapters_for,
    alone,
    cell_of,
)
from examples.shapes.community.load import STYLE_LORAS
from examples.shapes.community.one_step import BASE, DMD, FIRST, NAME, TUNED, UPDATES
from examples.shapes.evaluate import TEACHER_STEPS
from examples.shapes.tables import fill
from lcm.system.text import count

HERE = Path(__file__).parent
Rows = dict[Cell, dict[str, Any]]


def read(name: str) -> list[dict[str, Any]]:
    return json.loads((HERE / "results" / name).read_text(encoding="utf-8"))


def percent(row: dict[str, Any], name: str) -> str:
    return f"{row[name]:.1%} ± {row[f'{name}_plus_minus']:.1%}"


def of_own(rows: Rows, cell: Cell, name: str) -> str:
    """The share over that of the model's own 40 steps."""
    return f"{rows[cell][name] / rows[alone(cell.model, TEACHER_STEPS)][name]:.0%}"


def players(model: str) -> list[tuple[str, Cell]]:
    names = {
        "base": "base adapter",
        f"own-{model}": "adapter distilled "
        + ("with the style LoRA in the teacher" if model in STYLE_LORAS else "on this very model"),
        "mixture": "adapter distilled on a mixture",
    }
    itself = [("itself", alone(model, TEACHER_STEPS)), ("itself", alone(model, 4))]
    stock = ("itself, stock `LCMScheduler`", alone(model, 4, scheduler="LCMScheduler"))
    longer = ("base adapter, longer run", Cell(model, "shipped", 4))
    return [
        *itself,
        stock,
        *((names[adapter], Cell(model, adapter, 4)) for adapter in adapters_for(model)),
        longer,
    ]


def models_table(rows: Rows) -> str:
    lines = [
        (
            "| model | drawn by | steps | all three right | in the style | both | of its own 40 "
            "steps: right | in the style |"
        )
    ]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for model in EVERY_MODEL:
        for who, cell in players(model):
            shares = " | ".join(
                percent(rows[cell], name) for name in ("all_right", "in_style", "both")
            )
            kept = " | ".join(of_own(rows, cell, name) for name in ("all_right", "in_style"))
            lines.append(f"| {model} | {who} | {cell.steps} | {shares} | {kept} |")
    return "\n".join(lines)


def steps_table(rows: Rows) -> str:
    """Right and in the style, by the number of steps."""
    lines = [
        "| model | adapter | 1 step |" + "".join(f" {n} steps |" for n in FEW[1:]),
        "|---" * (2 + len(FEW)) + "|",
    ]
    for model in EVERY_MODEL:
        for adapter in adapters_for(model):
            shares = " | ".join(percent(rows[Cell(model, adapter, n)], "both") for n in FEW)
            lines.append(f"| {model} | {adapter.split('-')[0]} | {shares} |")
    return "\n".join(lines)


def sweep_table(rows: Rows) -> str:
    """Right and in the style, at 4 steps of the base adapter: by its weight, and by guidance on top
    of it.
    """
    lines = [
        (
            f"| model | {' | '.join(f'weight {w:g}' for w in WEIGHTS)} | "
            f"{' | '.join(f'guidance {g:g}' for g in GUIDANCE_SCALES[1:])} |"
        )
    ]
    lines += ["|---" * (1 + len(WEIGHTS) + len(GUIDANCE_SCALES[1:])) + "|"]
    for model in EVERY_MODEL:
        swept = [Cell(model, "base", 4, weight) for weight in WEIGHTS]
        swept += [Cell(model, "base", 4, guidance_scale=scale) for scale in GUIDANCE_SCALES[1:]]
        shares = (rows[cell]["both"] for cell in swept)
        lines.append(f"| {model} | {' | '.join(f'{share:.1%}' for share in shares)} |")
    return "\n".join(lines)


def style_weight_table(rows: Rows) -> str:
    """Right, in the style: the style LoRA beside the base adapter, at 4 steps."""
    lines = [
        f"| style weight | {' | '.join(f'adapter weight {w:g}' for w in WEIGHTS)} |",
        "|---" * (1 + len(WEIGHTS)) + "|",
    ]
    for model, style in itertools.product(STYLE_LORAS, STYLE_WEIGHTS):
        swept = (rows[Cell(model, "base", 4, weight, style)] for weight in WEIGHTS)
        lines.append(
            f"| {model} {style:g} | "
            + " | ".join(f"{row['all_right']:.1%}, {row['in_style']:.1%}" for row in swept)
            + " |"
        )
    return "\n".join(lines)


def one_step_table(rows: list[dict[str, Any]]) -> str:
    """Right and in the style, by the number of steps and where the first begins."""
    cells = {(row["model"], row["adapter"], row["steps"], row["first"]): row for row in rows}
    columns = [(steps, first) for steps, firsts in FIRST.items() for first in firsts]
    names = {BASE: "bundled", TUNED: f"and {UPDATES} updates here", DMD: "`dmd`"}
    head = (f"{count(steps, 'step')} from {first}" for steps, first in columns)
    lines = [f"| model | adapter | {' | '.join(head)} |", "|---" * (2 + len(columns)) + "|"]
    for model, adapter in dict.fromkeys((row["model"], row["adapter"]) for row in rows):
        name = names[adapter]
        shares = (f"{cells[model, adapter, *column]['both']:.0%}" for column in columns)
        lines.append(f"| {model} | {name} | {' | '.join(shares)} |")
    return "\n".join(lines)


def judge_table(rows: list[dict[str, Any]]) -> str:
    lines = ["| | pictures | all three right | in the style |", "|---|---|---|---|"]
    for row in rows:
        what = "after the VAE" if row["decoded"] else "held-out renders"
        lines.append(
            f"| {row['style']}, {what} | {row['images']} | {row['all_right']:.1%} | "
            f"{row['in_style']:.1%} |"
        )
    return "\n".join(lines)


def filled(text: str) -> str:
    """The README with every table as the raw results say."""
    rows = {cell_of(row): row for row in read("community.json")}
    text = fill(text, "judge", judge_table(read("judge.json")))
    text = fill(text, "one_step", one_step_table(read(NAME)))
    tables = {
        "models": models_table,
        "steps": steps_table,
        "sweep": sweep_table,
        "style_weight": style_weight_table,
    }
    for name, table in tables.items():
        text = fill(text, name, table(rows))
    return text


def main() -> None:
    path = HERE / "README.md"
    path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
