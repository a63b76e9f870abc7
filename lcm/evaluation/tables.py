"""The numbers of evaluation.json as rows of text, for the page and for the card."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lcm.evaluation.drawings import TEACHER
from lcm.evaluation.metric import FIXED
from lcm.evaluation.metrics import GROUPS
from lcm.evaluation.metrics.cost import COST
from lcm.system.text import count

ARROWS = {"lower": "↓", "higher": "↑", "teacher": "→ 1"}
"""Which way is better."""
OF_REAL = "_real"
"""What follows the name of a metric against real pictures."""
Content = dict[str, Any]
"""All of evaluation.json."""


@dataclass(frozen=True)
class Column:
    """A metric against one reference."""

    metric: str
    reference: str
    title: str
    better: str
    form: str
    about: str

    def shown(self, value: float | None) -> str:
        """A number as it is written: with a digit more where it is not 0 but would look so."""
        if value is None:
            return "-"
        text = format(value, self.form)
        if float(text) == 0:
            return format(value, ".1g") if value else format(0.0, self.form)
        return text


@dataclass(frozen=True)
class Cell:
    """A number, and how far it may be off, as text."""

    value: str
    reach: str = ""


@dataclass(frozen=True)
class TableOf:
    """`rows` are (subject, steps, cells); the last may be the floor, whose steps are None."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[tuple[str, int | None, list[Cell]]]


def columns_of(content: Content, group: str) -> list[Column]:
    """The metrics of a group, in the order in which they were measured."""
    found: dict[tuple[str, str], Column] = {}
    for result in content["results"]:
        name, reference = result["metric"], result["reference"]
        facts = content["metrics"][name]
        if facts["group"] != group or (name, reference) in found:
            continue
        title = facts["title"] if reference == TEACHER else f"{facts['title']} to real pictures"
        parts = [title, ARROWS.get(facts["better"], "")]
        if result["interval"] != FIXED:  # of prompts
            parts.append(f"(n = {result['pictures']})")
        found[name, reference] = Column(
            *(name, reference, " ".join(filter(None, parts)), facts["better"]),
            *(facts["form"], facts["about"]),
        )
    return list(found.values())


def groups_of(content: Content) -> list[str]:
    """The groups that have a number."""
    present = [facts["group"] for facts in content["metrics"].values()]
    return sorted(
        dict.fromkeys(present), key=lambda g: list(GROUPS).index(g) if g in GROUPS else len(GROUPS)
    )


def reach_of(column: Column, result: Content) -> str:
    """Half of the interval; both ends where it is lopsided, where half of it would reach beyond 0
    and it does not, and where one is a bound.
    """
    low, high, value = result["low"], result["high"], result["value"]
    if low is None or high is None or value is None:
        return ""
    half, (least, most) = (high - low) / 2, result["ends"] or (-math.inf, math.inf)
    is_lopsided = abs(high + low - 2 * value) > half / 2
    is_beyond_0 = (value - half < 0) != (low < 0) or (value + half > 0) != (high > 0)
    if is_lopsided or is_beyond_0 or low <= least or high >= most:
        return both_ends(column, result)
    return f"± {column.shown(half)}"


def both_ends(column: Column, result: Content) -> str:
    """An interval; only the end that says something where the value is a bound."""
    low, high, bound = result["low"], result["high"], result["bound"]
    if bound is not None:
        near, words = (low, "more") if bound == "at least" else (high, "less")
        return "" if near == result["value"] else f"({column.shown(near)} or {words})"
    least, most = result["ends"] or (-math.inf, math.inf)
    below = " or less" if low <= least else ""
    above = " or more" if high >= most else ""
    return f"({column.shown(low)}{below} to {column.shown(high)}{above})"


def tables(content: Content) -> Iterator[TableOf]:
    """A table a group: the teacher on top where it has numbers, the adapters, and the floor."""
    for group in groups_of(content):
        columns = columns_of(content, group)
        by_place = results_by_place(content)
        rows: list[tuple[str, int | None, list[Cell]]] = []
        for (subject, steps), results in by_place.items():
            mine = [results.get((column.metric, column.reference)) for column in columns]
            if any(mine):
                rows.append(
                    (subject, steps, [cell(c, r) for c, r in zip(columns, mine, strict=True)])
                )
        floors = [floor_of(content, column) for column in columns]
        if any(floor is not None for floor in floors):
            cells = [Cell(c.shown(f)) for c, f in zip(columns, floors, strict=True)]
            rows.append(("floor", None, cells))
        yield TableOf(GROUPS.get(group, group) + calls_of(content, group), columns, rows)


def calls_of(content: Content, group: str) -> str:
    """Of how many pictures the calls are of which a cost is."""
    sizes = {
        result["details"]["batch_size"]
        for result in content["results"]
        if content["metrics"][result["metric"]]["group"] == group == COST
        and "batch_size" in result.get("details", {})
    }
    listed = " or ".join(count(size, "picture") for size in sorted(sizes))
    return f", in calls of {listed}" if sizes else ""


def results_by_place(content: Content) -> dict[tuple[str, int], dict[tuple[str, str], Content]]:
    """Results by (subject, steps), and then by (metric, reference): the teacher first."""
    adapters = [(each["name"], steps) for each in content["adapters"] for steps in content["steps"]]
    found: dict[tuple[str, int], dict[tuple[str, str], Content]] = {
        place: {} for place in [(TEACHER, content["teacher"]["steps"]), *adapters]
    }
    for result in content["results"]:
        found[result["subject"], result["steps"]][result["metric"], result["reference"]] = result
    return found


def cell(column: Column, result: Content | None) -> Cell:
    """A number of a table."""
    if result is None:
        return Cell("-")
    return Cell(value_of(column, result), reach_of(column, result))


def value_of(column: Column, result: Content) -> str:
    """A number, and that it is a bound where it is one."""
    value, bound = result["value"], result["bound"]
    if bound is None or value is None:
        return column.shown(value)
    return f"{bound} {column.shown(value) if result['ends'] is None else format(value, 'g')}"


def floor_of(content: Content, column: Column) -> float | None:
    """What the teacher itself has: the same for all adapters."""
    for result in content["results"]:
        if (result["metric"], result["reference"]) == (column.metric, column.reference):
            floor: float | None = result["floor"]
            if floor is not None:
                return floor
    return None


def verdicts(content: Content) -> list[list[str]]:
    """Rows of text of every difference that has an interval: what, in how many steps, how much, and
    what it means.
    """
    rows = []
    for entry in content["comparisons"]:
        if entry["beyond_noise"] is None:  # what a picture costs, and sets of a few
            continue
        facts = content["metrics"][entry["metric"]]
        column = Column(
            *(entry["metric"], entry["reference"], facts["title"], facts["better"]),
            *(facts["form"], facts["about"]),
        )
        to_real = " to real pictures" if entry["reference"] != TEACHER else ""
        names = f"{entry['one']} less {entry['other']}"
        amount = (
            f"{value_of(column, as_result(entry))} {both_ends(column, as_result(entry))}".strip()
        )
        rows.append(
            [names, f"{facts['title']}{to_real}", str(entry["steps"]), amount, meaning(entry)]
        )
    return rows


def as_result(entry: Content) -> Content:
    """A difference as `both_ends` reads results."""
    return {**entry, "value": entry["difference"], "ends": None}


def meaning(entry: Content) -> str:
    """A difference in words."""
    if not entry["beyond_noise"]:
        return "within the noise"
    if entry["better"] is None:
        return "beyond the noise, but neither is clearly nearer to the teacher"
    return f"beyond the noise: {entry['better']} is better"


def plain_lines(content: Content) -> Iterator[str]:
    """The tables for a terminal."""
    for table in tables(content):
        rows = [["", "steps", *(column.title for column in table.columns)]]
        for subject, steps, cells in table.rows:
            shown = [f"{cell.value} {cell.reach}".strip() for cell in cells]
            rows.append([subject, "" if steps is None else str(steps), *shown])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        yield f"{table.title}:"
        for row in rows:
            yield "  ".join(map(str.ljust, row, widths)).rstrip()
        yield ""
    for names, metric, steps_shown, amount, means in verdicts(content):
        yield f"{names}, {metric} in {steps_shown}: {amount}, {means}"


def how(content: Content) -> str:
    """What was drawn, in a sentence."""
    seeds, prompts, teacher = content["seeds"], content["prompts"], content["teacher"]
    listed = ", ".join(map(str, seeds))
    return (
        f"{prompts['count']} prompts ({prompts['from']}), seed{'s' if len(seeds) > 1 else ''} "
        f"{listed}; the teacher drew the same in {teacher['steps']} steps of DDIM with "
        f"guidance_scale {teacher['guidance_scale']:g}"
    )
