"""The numbers as a block of Markdown, to be put into the card of a model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lcm.evaluation.drawings import TEACHER
from lcm.evaluation.evaluation import CARD_NAME
from lcm.evaluation.tables import Content, how, tables, verdicts
from lcm.system.atomic import replacing
from lcm.system.paths import write_text
from lcm.system.text import code, markdown

NOTE = (
    "n counts pictures, ± is half of a 95 % interval over prompts; else both ends are in brackets. "
    "The floor is what a student that draws from the teacher's own distribution would have."
)


def write_card(folder: Path, content: Content) -> None:
    """Writes card.md."""
    with replacing(folder / CARD_NAME) as partial:
        write_text(partial, "\n".join(lines_of(content)) + "\n")


def lines_of(content: Content) -> list[str]:
    """The block: a table of each group, and how adapters compare."""
    lines = ["## Evaluation", "", f"On {code(content['base'])}: {markdown(how(content))}. {NOTE}"]
    for table in tables(content):
        head = ["", "steps", *(column.title for column in table.columns)]
        lines += ["", f"**{markdown(table.title)}**", "", row(map(markdown, head))]
        lines.append(row(["---"] * len(head)))
        for subject, steps, cells in table.rows:
            name = subject if steps is None or subject == TEACHER else code(subject)
            shown = [f"{cell.value} {cell.reach}".strip() for cell in cells]
            lines.append(row([name, "" if steps is None else str(steps), *shown]))
    if compared := verdicts(content):
        lines += ["", "**Adapters beside each other, over the same prompts**", ""]
        lines += [row(["", "", "steps", "difference", ""]), row(["---"] * 5)]
        lines += [row(map(markdown, each)) for each in compared]
    return lines


def row(cells: Iterable[str]) -> str:
    """A line of a table, of cells that are Markdown."""
    return f"| {' | '.join(cells)} |"
