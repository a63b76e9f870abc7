"""Numbers of metrics.jsonl as points of curves."""

from __future__ import annotations

import math
from typing import Any

from lcm.publish.report.curves import Point
from lcm.system.values import is_number


def points(lines: list[dict[str, Any]], name: str) -> list[Point]:
    """One number over the steps, without lines that lack it or where it is none to draw."""
    return [
        (line["step"], line[name])
        for line in lines
        if is_number(line.get(name)) and math.isfinite(line[name])
    ]
