"""Writes the tables of counts and steps into the README beside it, between its markers, from `results/`.

python -m benchmarks.report
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import counts, step
from examples.shapes.tables import fill

DOCUMENT = Path(__file__).parent / "README.md"
TABLES: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "counts": (counts.NAME, counts.counts_table),
    "step": (step.NAME, step.step_table),
}
"""Marker -> the file of its raw results, and what makes its table of them."""


def filled(text: str, results: Path) -> str:
    """The document with every table as the results say."""
    for name, (file, make_table) in TABLES.items():
        text = fill(text, name, make_table(json.loads((results / file).read_text())))
    return text


def main() -> None:
    DOCUMENT.write_text(filled(DOCUMENT.read_text(), counts.RESULTS))


if __name__ == "__main__":
    main()
