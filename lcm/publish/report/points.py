"""Numbers of metrics.jsonl as points of curves."""

from __future__ import annotations

import math
from typing import Any

from lcm.publish.report.curves import Point


def points(lines: list[dict[str, Any]], name: str) -> list[Point]:
    """One number over the steps, without lines that lack it or have none that is finite."""
    found = ((line["step"], line.get(name)) for line in lines)
    return [
        (step, value)
        for step, value in found
        if isinstance(value, int | float) and math.isfinite(value)
    ]
