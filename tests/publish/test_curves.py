"""Curves of the report stand where its ticks say."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from lcm.publish.report.curves import (
    HEIGHT,
    LEFT,
    WIDTH,
    Series,
    chart,
    log_ticks,
    nice_ticks,
    smooth,
    thin,
)
from tests.support.pages import Page, line, write


def test_one_line_is_one_dot_a_curve(tmp_path: Path) -> None:
    page = write(tmp_path, [line(3, grad_norm=None, loss_t_000_249=None, loss_t_250_499=0.25)])
    assert [str(svg["aria-label"]) for svg in page.all("svg")] == [
        "loss",
        "loss by timestep",
        "learning rate",
    ]
    assert len(page.all("circle")) == 3
    assert "t 250 to 499: 0.25" in page.words
    assert page.all("polyline") == []


def drawn(
    series: list[Series],
) -> tuple[list[list[tuple[float, float]]], dict[float, float], dict[float, float]]:
    """Places of the polylines, and where the ticks of x and y stand."""
    svg = str(chart("a <title>", series))
    Page(svg)
    lines = [
        [tuple(map(float, p.split(","))) for p in points.split()]
        for points in re.findall(r'points="([^"]*)"', svg)
    ]
    ticks = re.findall(r'<text x="([\d.-]+)" y="([\d.-]+)" text-anchor="(\w+)">([^<]*)', svg)
    assert ticks.pop()[3] == "updates"  # what the axis below counts
    below = {float(v): float(x) for x, _, anchor, v in ticks if anchor == "middle"}
    beside = {float(v): float(y) - 4 for _, y, anchor, v in ticks if anchor == "end"}
    return lines, below, beside  # type: ignore[return-value]


def along(places: dict[float, float], place: float, is_log: bool = False) -> float:
    """The value at a place, by the line through the outermost two ticks."""
    (a, first), *_, (b, last) = sorted(places.items())
    a, b = (np.log10(v) if is_log else v for v in (a, b))
    value = a + (place - first) / (last - first) * (b - a)
    return float(10**value if is_log else value)


def test_a_curve_stands_where_its_ticks_say() -> None:
    points = [(10, 0.3), (20, 0.1), (25, 0.45), (60, 0.2)]
    (places,), below, beside = drawn([Series("loss", points)])
    assert [along(below, x) for x, _ in places] == pytest.approx([x for x, _ in points], abs=0.1)
    assert [along(beside, y) for _, y in places] == pytest.approx([y for _, y in points], abs=2e-4)
    assert all(LEFT <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in places)


def test_values_of_many_magnitudes_have_a_logarithmic_axis() -> None:
    points = [(0, 3e-4), (1, 0.2), (2, 5.0)]
    (places,), _, beside = drawn([Series("loss", points)])
    assert sorted(beside) == pytest.approx([1e-3, 1e-2, 0.1, 1.0])
    assert [along(beside, y, is_log=True) for _, y in places] == pytest.approx(
        [y for _, y in points], rel=1e-2
    )


@pytest.mark.parametrize("value", [0.0, 1e-4, -3.0, 250.0])
def test_a_flat_curve_lies_in_the_middle(value: float) -> None:
    (places,), _, _ = drawn([Series("lr", [(1, value), (2, value)])])
    assert len({y for _, y in places}) == 1
    assert 0.25 * HEIGHT < places[0][1] < 0.75 * HEIGHT


def test_a_faint_series_has_the_colour_of_the_next_and_the_others_their_own() -> None:
    points = [(1, 1.0), (2, 2.0)]
    svg = str(
        chart(
            "x",
            [
                Series("raw", points, True),
                Series("mean", points),
                Series("none", []),
                Series("other", points),
            ],
        )
    )
    colours, opacities = (
        re.findall(r'stroke="(#\w+)"', svg),
        re.findall(r'polyline .*? opacity="([^"]*)"', svg),
    )
    assert colours[0] == colours[1] != colours[2]
    assert float(opacities[0]) < float(opacities[1]) == float(opacities[2]) == 1


def test_long_runs_are_thinned_to_means() -> None:
    points = [(i, float(i % 4)) for i in range(4000)]
    thinned = thin(points)
    assert len(thinned) == 500
    assert thinned[0] == (7, 1.5) and thinned[-1] == (3999, 1.5)
    assert thin(points[:500]) == points[:500]


def test_smoothing_takes_the_neighbours_that_there_are() -> None:
    assert smooth([(1, 0.0), (2, 3.0), (5, 6.0)], 1) == [(1, 1.5), (2, 3.0), (5, 4.5)]
    assert smooth([(1, 0.0), (2, 3.0)], 0) == [(1, 0.0), (2, 3.0)]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.1, 0.47, [0.1, 0.2, 0.3, 0.4]),
        (-3, 9, [0, 5]),
        (0, 3000, [0, 1000, 2000, 3000]),
    ],
)
def test_ticks_are_round(low: float, high: float, ticks: list[float]) -> None:
    assert nice_ticks(low, high) == pytest.approx(ticks)


def test_a_short_logarithmic_axis_has_ticks_between_the_powers() -> None:
    assert log_ticks(0.15, 8.0) == pytest.approx([0.2, 0.5, 1.0, 2.0, 5.0])
    assert log_ticks(1e-5, 20.0) == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0])
