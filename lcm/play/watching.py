"""A run under way, as the page shows it: the curves and the grids that its folder has by now."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from lcm.outputs.folder import GRIDS, METRICS_NAME, PICTURE_NAME
from lcm.outputs.gauges import is_of_grid
from lcm.outputs.metrics import read_metrics
from lcm.publish.report.gauges import gauge_series, gauge_table
from lcm.publish.report.page import charts, numbers
from lcm.system.paths import is_regular, is_within
from lcm.system.text import plain


def pictures(run: Path) -> list[str]:
    """The grids by their names from the run's folder, in the order in which they were drawn."""
    names = [f"{GRIDS}/{path.name}" for path in sorted((run / GRIDS).glob("step-*.png"))]
    found = [*names, PICTURE_NAME]
    return [name for name in found if is_regular(run / name) and is_within(run / name, run)]


def entry(run: Path, name: str) -> dict[str, Any]:
    """A grid as the page has it: `changed` makes of one that is drawn anew another address."""
    step = re.search(r"step-(\d+)", name)
    label = f"step {int(step[1])}" if step else "the finished file, reloaded"
    return {"path": name, "label": label, "changed": (run / name).stat().st_mtime_ns}


def version(run: Path) -> str:
    """A text that changes with what the page would show."""
    found = []
    for name in (METRICS_NAME, *pictures(run)):
        try:
            facts = (run / name).stat()
        except OSError:
            continue
        found.append(f"{name} {facts.st_size} {facts.st_mtime_ns}")
    return str(hash(tuple(found)))


def shown(run: Path) -> dict[str, Any]:
    """What the page shows of a run, as JSON has it; all of it is there from the first line on."""
    lines = read_metrics(run)
    grids = [line for line in lines if is_of_grid(line)]
    updates = [line for line in lines if not is_of_grid(line)]
    table = gauge_table(grids)
    return {
        "version": version(run),
        "name": plain(run),
        "step": max((line["step"] for line in lines), default=None),
        "numbers": [[name, plain(value)] for name, value in numbers(updates)],
        "charts": [
            {**chart, "svg": str(chart["svg"])} for chart in charts(updates, gauge_series(grids))
        ],
        "concerns": [plain(text) for text in table["concerns"]] if table else [],
        "pictures": [entry(run, name) for name in pictures(run)],
    }
