"""Numbers of metrics.jsonl as points of curves."""

from __future__ import annotations

from typing import Any

from lcm.publish.report.curves import Point


def points(lines: list[dict[str, Any]], name: str) -> list[Point]:
    """One number over the steps, without lines that lack it."""
    return [(line["step"], line[name]) for line in lines if isinstance(line.get(name), int | float)]
