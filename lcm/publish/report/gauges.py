"""The gauges of the grids on the page: curves over the updates, and the student's numbers beside
the teacher's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lcm.outputs.gauges import (
    GAUGES,
    MEAN,
    PROMPTS,
    SEEDS,
    STD,
    TEACHER,
    concerns,
    key,
    steps_in,
)
from lcm.publish.report.curves import Series
from lcm.publish.report.points import points
from lcm.system.text import count

Lines = list[dict[str, Any]]
TITLES = {
    MEAN: "mean of each channel of the latents",
    STD: "standard deviation within a picture, of each channel",
}


def gauge_series(lines: Lines) -> list[tuple[str, list[Series]]]:
    """The title and the curves of every gauge of these lines, one a number of inference steps, and
    where the teacher is.
    """
    found = []
    for name, gauge in GAUGES.items():
        steps = sorted({n for line in lines for n in steps_in(line, name)})
        series = [Series(count(n, "step"), points(lines, key(name, n))) for n in steps]
        if not any(each.points for each in series):
            continue
        ends = sorted({line["step"] for line in lines})
        level = [(step, gauge.neutral) for step in (ends[0], ends[-1])]
        found.append((gauge.title, [*series, Series(TEACHER, level, is_reference=True)]))
    return found


def gauge_table(lines: Lines) -> dict[str, Any] | None:
    """The newest numbers: a head, rows of cells as text, and what is out of bounds; None without a
    line.
    """
    if not lines:
        return None
    last = lines[-1]
    names = [name for name in GAUGES if steps_in(last, name)]
    rows = [
        [TEACHER, *(f"{GAUGES[n].neutral:g}" for n in names), *of_channels(last, TEACHER)],
        *(
            [
                count(steps, "step"),
                *(shown(last.get(key(name, steps))) for name in names),
                *of_channels(last, f"{steps}_steps"),
            ]
            for steps in steps_in(last, MEAN)
        ),
    ]
    head = ["", *(name.replace("_", " ") for name in names), *TITLES.values()]
    found = {"step": last["step"], "head": head, "rows": rows, "concerns": concerns(last)}
    return {**found, "count": drawn(last)}


def drawn(line: dict[str, Any]) -> str:
    """Of how much the numbers are; "" in lines of former versions."""
    if not {PROMPTS, SEEDS} <= line.keys():
        return ""
    return f" ({line[PROMPTS]} prompts, {line[SEEDS]} seed{'' if line[SEEDS] == 1 else 's'} each)"


def of_channels(line: dict[str, Any], whose: str) -> list[str]:
    """The cells of what is listed by channels."""
    return [", ".join(map(shown, listed(line.get(f"{name}_{whose}")))) or "-" for name in TITLES]


def listed(value: Any) -> Sequence[Any]:
    """A list, or nothing."""
    return value if isinstance(value, list) else []


def shown(value: Any) -> str:
    """A number of a gauge as text, "-" for none."""
    return f"{value:.2f}" if isinstance(value, int | float) else "-"
