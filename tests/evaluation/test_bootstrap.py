"""Intervals hold the truth as often as they say, and tell a difference from the noise."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from examples.shapes.render import CAPTIONS
from lcm.evaluation.bootstrap import difference, half_width, interval
from lcm.evaluation.drawings import Drawings
from lcm.evaluation.metric import HALVED, Statistic, constant, of_rows
from lcm.evaluation.scoring import Result, as_json, compare


def test_pictures_that_fail_together_count_once() -> None:
    prompts = list(CAPTIONS) * 8
    by_prompt = np.random.default_rng(0).random(192) < 0.7
    together = np.tile(by_prompt, 8)
    apart = np.random.default_rng(1).permutation(together)
    p = float(together.mean())
    naive = 1.96 * math.sqrt(p * (1 - p) / len(together))
    assert half_width(together, prompts) == pytest.approx(naive * math.sqrt(8), rel=0.1)
    assert half_width(apart, prompts) == pytest.approx(naive, rel=0.15)
    assert half_width(np.ones(384), prompts[:384]) == 0.0
    assert half_width(together, prompts) == half_width(together, prompts)


def test_intervals_hold_the_mean_as_often_as_they_say() -> None:
    rng, held = np.random.default_rng(0), 0
    for _ in range(80):
        found = interval(of_rows(rng.exponential(2.0, size=60), 60))
        assert found is not None
        held += not found.excludes(2.0)
    assert 0.86 <= held / 80 <= 1.0


def test_half_samples_say_what_the_closed_form_says() -> None:
    """Of a mean it is s / sqrt(n), as the bootstrap has it too."""
    rng, ratios = np.random.default_rng(1), []
    for _ in range(30):
        values = rng.normal(size=200)
        rows = of_rows(values, 200)
        found = interval(Statistic(rows.of, 200, 200, HALVED))
        assert found is not None and not found.excludes(values.mean())
        ratios.append(found.half / (1.96 * values.std(ddof=1) / math.sqrt(200)))
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.1)


def test_a_difference_over_the_same_prompts_is_told_from_the_noise_of_prompts() -> None:
    rng = np.random.default_rng(0)
    hard = rng.normal(size=150)  # what both owe to a prompt
    one = of_rows(hard + 0.1 + 0.05 * rng.normal(size=150), 150)
    other = of_rows(hard + 0.05 * rng.normal(size=150), 150)
    compared = difference(one, other)
    assert compared is not None and compared[1] is not None
    assert compared[0] == pytest.approx(0.1, abs=0.02) and compared[1].excludes(0.0)
    alone = interval(one), interval(other)
    assert alone[0] is not None and alone[1] is not None
    assert alone[0].low < alone[1].high  # which by themselves say nothing
    same = difference(one, one)
    assert same is not None and same[0] == 0.0 and same[1] is not None
    assert not same[1].excludes(0.0)


def test_what_is_no_number_of_prompts_has_no_interval() -> None:
    assert interval(constant(3.0, 1)) is None
    assert interval(of_rows([1.0], 1)) is None
    assert interval(of_rows([1.0, math.nan], 2)) is None
    assert difference(of_rows([1.0, 2.0], 2), of_rows([1.0, 2.0, 3.0], 3)) is None


def result_of(subject: str, values: object, folder: Path) -> Result:
    drawn = Drawings(subject, 4, (), (), (), folder, "")
    statistic = of_rows(np.asarray(values), 50)
    return Result("diversity", drawn, "teacher", statistic, statistic.value, interval(statistic))


def test_nearer_to_the_teacher_is_better_where_it_is_beyond_the_noise(tmp_path: Path) -> None:
    noise = 0.1 * np.random.default_rng(0).normal(size=50)
    under, over, far = (
        result_of(name, value + noise - noise.mean(), tmp_path)
        for name, value in (("under", 0.8), ("over", 1.2), ("far", 1.9))
    )
    (one, two, three) = (compare(pair)[0] for pair in ([under, over], [over, far], [far, under]))
    assert one["beyond_noise"] and one["better"] is None  # as far away, on the other side
    assert two["difference"] == pytest.approx(0.7) and two["better"] == "over"
    assert three["difference"] == pytest.approx(-1.1) and three["better"] == "under"
    same = compare([under, result_of("same", 0.8 + noise - noise.mean(), tmp_path)])[0]
    assert same["beyond_noise"] is False and same["better"] is None


def test_an_interval_holds_nothing_that_cannot_be() -> None:
    values = np.random.default_rng(0).normal(0.1, 1.0, size=40)
    rows = of_rows(values, 40)
    for possible in ((0.0, math.inf), (-0.1, 0.2), (-math.inf, math.inf)):
        free, cut = (
            interval(Statistic(rows.of, 40, 40, HALVED, possible=each))
            for each in ((-math.inf, math.inf), possible)
        )
        assert free is not None and cut is not None and free.low < -0.1 and free.high > 0.2
        assert (cut.low, cut.high) == (max(free.low, possible[0]), min(free.high, possible[1]))


@pytest.mark.parametrize(
    ("one", "other", "bound"),
    [
        (25.0, 4.0, "at least"),
        (1.0, 4.0, "at most"),
        (4.0, 25.0, "at most"),
        (4.0, 1.0, "at least"),
        (25.0, 1.0, "at least"),
        (4.0, 5.0, None),
        (25.0, 25.0, "anything"),
        (1.0, 1.0, "anything"),
    ],
)
def test_a_difference_of_bounds_is_a_bound_or_says_nothing(
    one: float, other: float, bound: str | None, tmp_path: Path
) -> None:
    found = []
    for name, value in (("other", other), ("one", one)):
        drawn = Drawings(name, 4, (), (), (), tmp_path, "")
        statistic = of_rows(np.full(9, value), 9, ends=(1, 25))
        found.append(Result("teacher_steps", drawn, "teacher", statistic, value, None))
    compared = compare(found)
    if bound == "anything":
        assert compared == []
    else:
        assert [each["bound"] for each in compared] == [bound]
    assert as_json(found[1])["bound"] == {25.0: "at least", 1.0: "at most"}.get(one)
