"""The markdown tables of the benchmark, from its results alone."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, median
from typing import Any

from benchmarks.methods.cost import AGAIN, UNIT
from benchmarks.methods.teacher import GUIDANCE_SCALE
from lcm.evaluation.metrics.teacher_steps import equivalent_steps
from lcm.system.text import count

Result = dict[str, Any]
Row = dict[str, Any]
NONE = "-"


def line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join([line(head), line(["---"] * len(head)).replace(" ", ""), *map(line, rows)])


def accuracy(rows: Sequence[Row]) -> str:
    """One seed: the share and its interval; several: their mean and their range."""
    values = [row["all_right"] for row in rows]
    if len(rows) == 1:
        return f"{values[0]:.1%} ± {rows[0]['plus_minus']:.1%}"
    return f"{mean(values):.1%} ({100 * min(values):.1f} to {100 * max(values):.1f})"


def error(rows: Sequence[Row], curve: dict[int, float]) -> str:
    """NMSE and, where the curve is known, the teacher's steps that come as near; a dash where
    pictures are not paired.
    """
    if not all("endpoint_nmse" in row for row in rows):
        return NONE
    nmse = mean(row["endpoint_nmse"] for row in rows)
    if not curve:
        return f"{nmse:.3f}"
    steps = equivalent_steps(nmse, curve)
    bound = "≤ " if steps == min(curve) else "≥ " if steps == max(curve) else ""
    return f"{nmse:.3f} ({bound}{steps:.1f})"


def average(rows: Sequence[Row], name: str) -> str:
    return f"{mean(row[name] for row in rows):.2f}"


def distance(rows: Sequence[Row]) -> str:
    return (
        f"{mean(row['judge_fd'] for row in rows):.0f} "
        f"({mean(row['judge_fd_floor'] for row in rows):.0f})"
    )


def cost(name: str, seconds: dict[str, list[float]]) -> str:
    """Median over the rounds of a step's time in units of `lcm`'s in the same round."""
    return (
        f"{median(a / b for a, b in zip(seconds[name], seconds[UNIT], strict=True)):.2f}"
        if name in seconds
        else NONE
    )


def methods_table(
    results: Sequence[Result],
    curve: dict[int, float],
    seconds: dict[str, list[float]],
    order: Sequence[str],
) -> str:
    """One line per run: methods first, then controls, each in `order`; runs that have no result are
    left out.
    """
    by_name: dict[str, list[Result]] = {}
    for result in results:
        by_name.setdefault(result["name"], []).append(result)
    place = {name: i for i, name in enumerate(order)}
    names = sorted(
        by_name, key=lambda name: (by_name[name][0]["control"], place.get(name, len(place)), name)
    )
    rows = []
    for name in names:
        group = by_name[name]
        at = {n: [result["steps"][n] for result in group] for n in ("1", "2", "4", "8")}
        rows.append(
            [
                f"{name} (control)" if group[0]["control"] else name,
                str(len(group)),
                *(accuracy(at[n]) for n in at),
                *(
                    error(
                        at[n],
                        curve if group[0]["reference_guidance_scale"] == GUIDANCE_SCALE else {},
                    )
                    for n in ("1", "4")
                ),
                *(average(at[n], "diversity_ratio") for n in ("1", "4")),
                distance(at["4"]),
                cost(name, seconds),
            ]
        )
    head = ["run", "seeds", *(count(n, "step") for n in (1, 2, 4, 8))]
    head += [
        "NMSE at 1 step (teacher's steps)",
        "NMSE at 4",
        "diversity at 1",
        "diversity at 4",
        "judge-FD at 4 (floor)",
        f"cost (lcm again: {cost(AGAIN, seconds)})",
    ]
    return table(head, rows)


def causes_table(results: Sequence[Result], order: Sequence[str]) -> str:
    """One line per run: what it changes of the first, and what comes of it."""
    ranked = sorted(results, key=lambda result: order.index(result["name"]))
    reference = ranked[0]["flags"]
    rows = []
    for result in ranked:
        changed = [
            f"`--{name} {value}`"
            for name, value in sorted(result["flags"].items())
            if reference.get(name) != value
        ]
        at = [result["steps"][n] for n in ("1", "2", "4", "8")]
        color, diversity = f"{at[2]['color']:.1%}", f"{at[2]['diversity_ratio']:.2f}"
        rows.append(
            [", ".join(changed) or "nothing", *(accuracy([row]) for row in at), color, diversity]
        )
    return table(
        [
            "changed",
            *(count(n, "step") for n in (1, 2, 4, 8)),
            "colour at 4",
            "diversity at 4",
        ],
        rows,
    )


def teacher_table(rows: Sequence[Row]) -> str:
    """The teacher's DDIM curve, then the other samplers."""
    head = [
        "teacher with",
        "steps",
        "network evaluations",
        "pictures",
        "all right",
        "NMSE",
        "diversity",
        "judge-FD (floor)",
    ]
    return table(
        head,
        [
            [
                row["sampler"],
                str(row["steps"]),
                str(row["evaluations"]),
                str(row["images"]),
                accuracy([row]),
                error([row], {}),
                average([row], "diversity_ratio"),
                distance([row]),
            ]
            for row in sorted(rows, key=lambda row: row["part"] != "curve")
        ],
    )
