"""Writes the tables of these benchmarks into the pages that show them, between their markers, from
`results/`.

python -m benchmarks.report
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import (
    bare_command,
    counts,
    environments,
    few_pictures,
    guidance_tables,
    learning_rate,
    players,
    real_size,
    scale,
    serve,
    step,
    term_steps,
    term_tables,
    time_to_quality,
    verbs,
)
from benchmarks.gpu.tables import gpu_tables
from examples.shapes.tables import fill

README = Path(__file__).parent / "README.md"
DOCS = Path(__file__).parent.parent / "docs"
TRAINING, FIRST_MODEL, TOOLS, INSTALL, DEFAULTS, GUIDANCE, COST = (
    DOCS / f"{name}.md"
    for name in ("training", "first-model", "tools", "install", "defaults", "guidance", "cost")
)
TABLES: dict[str, tuple[Path, str, Callable[[dict[str, Any]], str]]] = {
    "counts": (README, counts.NAME, counts.counts_table),
    "step": (README, step.NAME, step.step_table),
    "quality": (README, time_to_quality.NAME, time_to_quality.quality_table),
    "bare": (DEFAULTS, bare_command.NAME, bare_command.goals_table),
    "rates": (DEFAULTS, learning_rate.NAME, learning_rate.rates_table),
    "scale": (README, scale.NAME, scale.scale_table),
    "real_size": (README, real_size.NAME, real_size.real_size_table),
    "serve": (README, serve.NAME, serve.serve_table),
    "verbs": (README, verbs.NAME, verbs.verbs_table),
    "gpu": (README, "gpu.json", gpu_tables),
    "few_pictures": (FIRST_MODEL, few_pictures.NAME, few_pictures.few_pictures_table),
    **{
        f"guidance_{name}": (GUIDANCE, guidance_tables.NAME, make)
        for name, make in guidance_tables.TABLES.items()
    },
    "players": (TOOLS, players.NAME, players.layers_table),
    "player_times": (TOOLS, players.NAME, players.times_table),
    "environments": (INSTALL, environments.NAME, environments.table),
    "fit": (TRAINING, counts.NAME, counts.fit_table),
    "term_counts": (COST, term_tables.NAME, term_tables.term_counts_table),
    "cards": (COST, term_tables.NAME, term_tables.cards_table),
    "term_steps": (COST, term_steps.NAME, term_steps.term_steps_table),
}
"""Marker -> the page that it is in, the file of its raw results, and what makes its table of them.
"""

MAY_LACK = ("gpu", "term_steps", *(f"guidance_{name}" for name in guidance_tables.TABLES))
"""Tables that say what is not known while there are no results: not everybody has such a machine.
"""


def raw(name: str, path: Path) -> dict[str, Any]:
    """The raw results of a table."""
    if name in MAY_LACK and not path.exists():
        return {}
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return results


def filled(document: Path, results: Path) -> str:
    """The text of a page with every table as the results say."""
    text = document.read_text()
    for name, (page, file, make_table) in TABLES.items():
        if page == document:
            text = fill(text, name, make_table(raw(name, results / file)))
    return text


def main() -> None:
    for document in {page for page, _, _ in TABLES.values()}:
        document.write_text(filled(document, counts.RESULTS))


if __name__ == "__main__":
    main()
