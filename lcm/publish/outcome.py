"""What a run's folder tells of how it went, for its card: samples, time, machine, and the student's
pictures against the teacher's in numbers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lcm.data.report import JSON_NAME
from lcm.outputs.gauges import GAUGES, MEAN, is_of_grid, key, steps_in
from lcm.outputs.metrics import read_metrics
from lcm.system.device import found, name_of

Lines = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Outcome:
    """`seconds` are those of training alone, on a `machine`, None for a CPU; `numbers` a table, its
    head first, of the last grid. None, or nothing, where the folder does not say.
    """

    samples: int | None = None
    seconds: float | None = None
    machine: str | None = None
    numbers: Sequence[Sequence[str]] = ()

    @classmethod
    def read(cls, output_dir: Path) -> Outcome:
        """What is known of a run that has just ended."""
        lines = read_metrics(output_dir)
        updates = [line for line in lines if not is_of_grid(line)]
        grids = [line for line in lines if is_of_grid(line)]
        return cls(
            count_samples(output_dir),
            seconds_of(updates) if updates else None,
            None if (device := found()).type == "cpu" else name_of(device),
            numbers_of(grids[-1]) if grids else (),
        )


def count_samples(output_dir: Path) -> int | None:
    """The number of samples that the run was made with; None where the folder does not say."""
    kept = read_data_report(output_dir).get("kept")
    return kept if isinstance(kept, int) else None


def read_data_report(output_dir: Path) -> dict[str, Any]:
    """data_report.json; nothing where there is none that can be read."""
    path = output_dir / JSON_NAME
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def seconds_of(lines: Lines) -> float:
    """The time that all updates took, of their lines of metrics.jsonl in order."""
    steps = [line["step"] for line in lines]
    return sum(
        (step - before) * (line.get("seconds_per_step") or 0.0)
        for line, step, before in zip(lines, steps, [0, *steps], strict=False)
    )


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 2 * 3600 else f"{seconds / 3600:.3g} h"


def numbers_of(line: Mapping[str, Any]) -> list[list[str]]:
    """The gauges of a grid as rows of texts, one for each number of inference steps."""
    names = [name for name in GAUGES if steps_in(line, name)]
    rows = []
    for steps in steps_in(line, MEAN):
        values = (line.get(key(name, steps)) for name in names)
        rows.append(
            [str(steps), *(f"{v:.2f}" if isinstance(v, int | float) else "-" for v in values)]
        )
    return [["steps", *(name.replace("_", " ") for name in names)], *rows]
