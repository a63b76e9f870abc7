"""The tables of docs/guidance.md, from `results/guidance.json`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.methods.tables import table

NAME = "guidance.json"
RESULTS = Path(__file__).parent / "results"
NOT_YET = "Not measured yet: `python -m benchmarks.guidance`."
TEACHER = "teacher"
LEFT_TO_THE_PIPELINE = (TEACHER, "preserve_cfg")
INSIDE = 5.0
"""The guidance of the teacher of the others."""
Rows = list[dict[str, Any]]


def rows_of(results: dict[str, Any], kind: str, *, begun: bool = False) -> Rows:
    """The rows of a kind, those whose first step is the teacher's or the others."""
    return [row for row in results.values() if row["kind"] == kind and bool(row["first"]) == begun]


def own(rows: Rows, row: dict[str, Any]) -> dict[str, Any]:
    """The teacher's row of the same guidance: what stands in the call where guidance is left to
    the pipeline, what is inside the adapter otherwise.
    """
    scale = row["guidance"] if row["who"] in LEFT_TO_THE_PIPELINE else INSIDE
    asked = (row["teacher"], TEACHER, scale)
    return next(r for r in rows if (r["teacher"], r["who"], r["guidance"]) == asked)


def in_turn(rows: Rows) -> Iterator[tuple[tuple[str, str, int], Rows]]:
    """The rows of every teacher, player and number of steps."""
    keys = dict.fromkeys((row["teacher"], row["who"], row["steps"]) for row in rows)
    for key in keys:
        yield key, [row for row in rows if (row["teacher"], row["who"], row["steps"]) == key]


def accuracy_table(results: dict[str, Any]) -> str:
    """Shape, colour and background right, a column a guidance."""
    return by_guidance(results, lambda row, _: f"{row['all_right']:.0%}")


def diversity_table(results: dict[str, Any]) -> str:
    """Variance within a prompt over that of the teacher at the same guidance."""
    return by_guidance(results, lambda row, own: f"{row['variance'] / own['variance']:.2f}")


def color_table(results: dict[str, Any]) -> str:
    """How far the means of the latents are from the teacher's, and the ratio of deviations."""
    return by_guidance(results, in_color)


def in_color(row: dict[str, Any], own: dict[str, Any]) -> str:
    """The mean over channels, in standard deviations of the teacher; then the ratio of those."""
    channels = list(zip(row["mean"], row["std"], own["mean"], own["std"], strict=True))
    shift = sum(abs(mean - its) / deviation for mean, _, its, deviation in channels)
    ratio = sum(deviation / its for _, deviation, _, its in channels)
    return f"{shift / len(channels):.2f}, {ratio / len(channels):.2f}"


def by_guidance(results: dict[str, Any], cell: Any) -> str:
    """A row for every teacher, player and number of steps, a column for every guidance."""
    rows = rows_of(results, "draw")
    if not rows:
        return NOT_YET
    scales = sorted({row["guidance"] for row in rows})
    lines = []
    for (teacher, who, steps), group in in_turn(rows):
        found = {row["guidance"]: cell(row, own(rows, row)) for row in group}
        lines.append([teacher, who, str(steps), *(found.get(scale, "") for scale in scales)])
    return table(["teacher", "", "steps", *(f"{scale:g}" for scale in scales)], lines)


def negative_table(results: dict[str, Any]) -> str:
    """How often the forbidden colour appears."""
    rows = rows_of(results, "negative")
    if not rows:
        return NOT_YET
    lines = [
        [
            *(row["teacher"], row["who"], str(row["steps"]), f"{row['guidance']:g}"),
            row["forbidden"],
            *(f"{row[name]:.0%}" for name in ("without", "with", "kept_without", "kept_with")),
        ]
        for row in rows
    ]
    heads = ["teacher", "", "steps", "guidance_scale", "forbidden", "appears", "with the negative"]
    return table([*heads, "the rest right", "with the negative"], lines)


def first_table(results: dict[str, Any]) -> str:
    """Accuracy and diversity with and without a first step by the teacher."""
    rows, begun = rows_of(results, "draw"), rows_of(results, "draw", begun=True)
    if not begun:
        return NOT_YET
    lines = []
    for row in begun:
        same = ("teacher", "who", "steps", "guidance")
        alone = next(other for other in rows if all(other[name] == row[name] for name in same))
        its = own(rows, row)["variance"]
        lines.append(
            [
                *(row["teacher"], row["who"], str(row["steps"]), f"{row['guidance']:g}"),
                *(f"{each['all_right']:.1%}" for each in (alone, row)),
                *(f"{each['variance'] / its:.2f}" for each in (alone, row)),
            ]
        )
    heads = ["teacher", "", "steps", "guidance_scale", "accuracy", "with a first step"]
    return table([*heads, "diversity", "with a first step"], lines)


TABLES = {
    "accuracy": accuracy_table,
    "diversity": diversity_table,
    "color": color_table,
    "negative": negative_table,
    "first": first_table,
}
"""Marker, after "guidance_" -> what makes its table of the results."""
