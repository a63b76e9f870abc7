"""Curves as inline SVG: no script, no library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from markupsafe import Markup

Point = tuple[float, float]

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 440, 220, 50, 18, 10, 38
UNIT = "updates"
"""What the axis below counts."""
COLOURS = ("#4c7ee0", "#d08c1d", "#e0566b", "#2fa98c")
"""The colours of series, taken in turn; they show on white and on black. All else has the colour of
the page's text.
"""
FAINT = 0.35
DASHES = ' stroke-dasharray="5 4"'
MOST_POINTS = 500
WIDE = 30
"""Values that span more than this factor are drawn on a logarithmic axis."""


@dataclass(frozen=True)
class Series:
    """Points (step, value) in order of their steps. `is_faint` is a background for another series,
    `is_reference` what others are compared with: dashed, in the colour of text.
    """

    name: str
    points: Sequence[Point]
    is_faint: bool = False
    is_reference: bool = False


def smooth(points: Sequence[Point], reach: int) -> list[Point]:
    """The mean of every value and of up to `reach` on both sides of it."""
    return [
        (x, fmean(y for _, y in points[max(0, i - reach) : i + reach + 1]))
        for i, (x, _) in enumerate(points)
    ]


def thin(points: Sequence[Point]) -> list[Point]:
    """The points of a curve, at most MOST_POINTS: means of as many neighbours as that takes, at the
    last of their steps.
    """
    group = -(-len(points) // MOST_POINTS)
    parts = [points[i : i + group] for i in range(0, len(points), group)]
    return [(part[-1][0], fmean(y for _, y in part)) for part in parts]


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers in [low, high]: multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    return [
        i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    ]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten in [low, high], with their multiples by 2 and 5 where there are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [tick for n in powers if low <= (tick := 10.0**n) <= high]
    return (
        ticks
        if len(ticks) > 3
        else [tick for n in powers for d in (1, 2, 5) if low <= (tick := d * 10.0**n) <= high]
    )


@dataclass(frozen=True)
class Axis:
    """Maps low..high onto start..end of the picture."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def at(self, value: float) -> float:
        """The place of a value in the picture."""
        low, high, value = (
            math.log10(v) if self.is_log else v for v in (self.low, self.high, value)
        )
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    @property
    def ticks(self) -> list[float]:
        """The values that are marked on the axis."""
        return log_ticks(self.low, self.high) if self.is_log else nice_ticks(self.low, self.high)


def axis_of(values: Sequence[float], start: float, end: float, may_be_log: bool) -> Axis:
    """An axis that holds all values, with a margin on both sides."""
    low, high = min(values), max(values)
    if may_be_log and low > 0 and high / low > WIDE:
        return Axis(low / 1.1, high * 1.1, start, end, is_log=True)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0  # a flat curve lies in the middle
    return Axis(low - margin, high + margin, start, end)


def draw_ticks(x: Axis, y: Axis) -> str:
    """The marks of both axes as SVG: lines across for y, whole numbers below for x."""
    across = "".join(
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y.at(v):.1f}" y2="{y.at(v):.1f}" '
        'stroke="currentColor" opacity="0.2"/>'
        f'<text x="{LEFT - 6}" y="{y.at(v) + 4:.1f}" text-anchor="end">{v:.4g}</text>'
        for v in y.ticks
    )
    below = "".join(
        f'<text x="{x.at(v):.1f}" y="{HEIGHT - 22}" text-anchor="middle">{v:g}</text>'
        for v in x.ticks
        if v == int(v) and x.low <= v <= x.high
    )
    unit = f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 5}" text-anchor="end">{UNIT}</text>'
    return f'<g fill="currentColor" font-size="12">{across}{below}{unit}</g>'


def colour_of(series: Series, colour: int) -> str:
    """The colour of a series, the `colour`-th of those that have one of their own."""
    return "currentColor" if series.is_reference else COLOURS[colour % len(COLOURS)]


def draw_series(series: Series, colour: int, x: Axis, y: Axis) -> str:
    """A series as SVG: a curve, or a dot where it has one point. `colour` counts in COLOURS."""
    name, opacity = colour_of(series, colour), FAINT if series.is_faint else 1
    places = [(x.at(step), y.at(value)) for step, value in thin(series.points)]
    if len(places) == 1:
        return (
            f'<circle fill="{name}" opacity="{opacity}" cx="{places[0][0]:.1f}" '
            f'cy="{places[0][1]:.1f}" r="3"/>'
        )
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
    return (
        f'<polyline fill="none" stroke="{name}" stroke-width="1.6" opacity="{opacity}" '
        f'points="{path}"{DASHES if series.is_reference else ""}/>'
    )


def chart(title: str, series: Sequence[Series]) -> Markup | None:
    """An svg element of all `series` over their steps, the first in the first colour; a faint one
    shares that of the next.

    None where no series has a point.
    """
    drawn = [s for s in series if s.points]
    if not drawn:
        return None
    points = [point for s in drawn for point in thin(s.points)]
    steps = [step for step, _ in points]
    x = Axis(min(steps) - (min(steps) == max(steps)), max(steps), LEFT, WIDTH - RIGHT)
    y = axis_of([value for _, value in points], HEIGHT - BOTTOM, TOP, may_be_log=True)
    curves, colour = "", 0
    for s in series:
        curves += draw_series(s, colour, x, y) if s.points else ""
        colour += not (s.is_faint or s.is_reference)
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, title, Markup(draw_ticks(x, y) + curves)
    )
