"""evaluation.html: one page that shows an evaluation, without a network or anything beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from lcm.evaluation.card_block import lines_of
from lcm.evaluation.drawings import TEACHER, Drawings
from lcm.evaluation.evaluation import PAGE_NAME
from lcm.evaluation.plan import Plan
from lcm.evaluation.subjects import in_full
from lcm.evaluation.tables import Content, how, tables, verdicts
from lcm.publish.pages import page_environment
from lcm.publish.report.pictures import uri_of
from lcm.system.atomic import replacing
from lcm.system.paths import write_text

SHOWN = 8
"""Prompts whose pictures stand on the page."""
WIDEST, SMALLEST = 384, 128
"""Pixels of a picture inside the page; smaller ones are shown at twice their size."""
LABEL, GAP = 90, 8
"""Pixels of the name of a row, and between pictures."""


@dataclass(frozen=True)
class Line:
    """A row of pictures: data URIs by column, None where a subject did not draw."""

    name: str
    cells: Sequence[str | None]


def write_page(plan: Plan, drawings: Sequence[Drawings], content: Content) -> None:
    """Writes the page of an evaluation, whose evaluation.json has `content`."""
    # what all is measured against comes first, where a narrow screen shows it
    steps = [plan.teacher_steps, *(n for n in plan.steps if n != plan.teacher_steps)]
    by_place = {(each.subject, each.steps): each for each in drawings}
    teacher = by_place[TEACHER, plan.teacher_steps]
    size = shown_width(teacher)
    rows = [
        {"prompt": plan.prompts[row], "lines": lines_for(plan, by_place, row, steps)}
        for row in spread(plan.curve_rows)
    ]
    page = template().render(
        title=f"{content['base']}: {', '.join(map(adapter_words, content['adapters']))}",
        how=how(content),
        steps=steps,
        teacher_steps=plan.teacher_steps,
        rows=rows,
        seed=plan.seeds[0],
        size=size,
        narrowest=LABEL + (size + GAP) * len(steps),
        is_small=width_of(teacher) <= SMALLEST,
        tables=list(tables(content)),
        verdicts=verdicts(content),
        left_out=by_reason(content["left_out"]),
        adapters=[(a, adapter_words(a)) for a in content["adapters"]],
        facts=facts(content),
        noisy=[a["name"] for a in content["adapters"] if a["adds_noise_in"]],
        card="\n".join(lines_of(content)),
    )
    with replacing(plan.folder / PAGE_NAME) as partial:
        write_text(partial, page)


def spread(rows: Sequence[int]) -> list[int]:
    """At most so many rows as are shown, evenly spread."""
    count = min(SHOWN, len(rows))
    return [rows[i * len(rows) // count] for i in range(count)]


def lines_for(
    plan: Plan, by_place: dict[tuple[str, int], Drawings], row: int, steps: Sequence[int]
) -> list[Line]:
    """The teacher's pictures of a prompt, then those of every adapter."""
    return [
        Line(
            subject.name,
            [picture(by_place.get((subject.name, n)), row, plan.seeds[0]) for n in steps],
        )
        for subject in plan.subjects
    ]


def picture(drawings: Drawings | None, row: int, seed: int) -> str | None:
    """A picture as text; None where it was not drawn."""
    if drawings is None or row not in drawings.rows:
        return None
    (found,) = drawings.images([(drawings.rows.index(row), seed)])
    return uri_of(found, WIDEST)


def width_of(drawings: Drawings) -> int:
    """Pixels of a picture."""
    with Image.open(drawings.path(0, drawings.seeds[0])) as image:
        return int(image.size[0])


def shown_width(drawings: Drawings) -> int:
    """Pixels that a picture takes on the page."""
    width = width_of(drawings)
    return 2 * width if width <= SMALLEST else min(width, 256)


def adapter_words(adapter: Content) -> str:
    """An adapter of evaluation.json, as it is told from the same with another weight."""
    weight = adapter["weight"]
    return adapter["adapter"] + (f" x {in_full(weight)}" if weight != 1 else "")


def by_reason(left_out: dict[str, str]) -> list[tuple[str, str]]:
    """(metrics, why they were not measured)."""
    return [
        (", ".join(name for name, other in left_out.items() if other == why), why)
        for why in dict.fromkeys(left_out.values())
    ]


def facts(content: Content) -> list[tuple[str, Any]]:
    """How it was done, for who does it again."""
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    return [
        ("base", content["base"]),
        ("prompts", f"{content['prompts']['count']}, SHA-256 {content['prompts']['sha256'][:16]}"),
        ("seeds", ", ".join(map(str, content["seeds"]))),
        ("real pictures", content["reference_dir"] or "none"),
        ("device", f"{content['device']}, {content['dtype']}"),
        ("versions", versions),
    ]


def template() -> Any:
    """The page."""
    return page_environment(Path(__file__).parent).get_template("page.html")
