"""metrics.jsonl: one line of numbers per logging interval, without gaps or repetitions after a resume."""

from __future__ import annotations

import json
from pathlib import Path

NAME = "metrics.jsonl"


def append_metrics(output_dir: Path, metrics: dict[str, float | None]) -> None:
    with (output_dir / NAME).open("a") as file:
        file.write(json.dumps(metrics) + "\n")


def rewind_metrics(output_dir: Path, step: int) -> None:
    """Drops lines after `step`, from which the run goes on: an interrupted run wrote them and they will come again."""
    path = output_dir / NAME
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
    partial = path.with_suffix(".part")
    partial.write_text("".join(kept))
    partial.replace(path)
