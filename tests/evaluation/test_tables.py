"""Numbers as people read them: what is written beside a number does not say something else."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from lcm.evaluation.evaluation import described
from lcm.evaluation.metrics import METRICS
from lcm.evaluation.tables import Column, cell, plain_lines, tables, verdicts

FORMS = sorted({METRICS[name].form for name in METRICS})
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]\d+)?")
RANDOM = np.random.default_rng(0)


def column(form: str) -> Column:
    return Column("x", "teacher", "x", "lower", form, "")


def result(value: float, low: float, high: float, **changes: Any) -> dict[str, Any]:
    made = {"subject": "a", "steps": 4, "metric": "nmse", "reference": "teacher", "floor": None}
    bound = {"bound": None, "ends": None, "interval": "bootstrap", "pictures": 8}
    return {**made, **bound, "value": value, "low": low, "high": high, **changes}


def content(*results: dict[str, Any], compared: list[dict[str, Any]] | None = None) -> Any:
    names = {each["metric"] for each in [*results, *(compared or [])]}
    return {
        "results": list(results),
        "comparisons": compared or [],
        "metrics": {name: described(name) for name in names},
        "adapters": [{"name": "a"}, {"name": "b"}],
        "steps": [4],
        "teacher": {"steps": 40},
    }


@pytest.mark.parametrize("form", FORMS)
def test_no_number_loses_its_sign_or_all_of_its_digits(form: str) -> None:
    for value in (3e-7, 4e-4, 0.049, 0.6, 12.34, 1234.5):
        for signed in (value, -value):
            shown = column(form).shown(signed)
            assert np.sign(float(shown)) == np.sign(signed)
            assert float(shown) == pytest.approx(signed, rel=0.7)
    assert column(form).shown(-0.0) == column(form).shown(0.0) == format(0.0, form)


@pytest.mark.parametrize("form", FORMS)
def test_what_stands_beside_a_number_says_the_same_of_0_as_its_interval(form: str) -> None:
    for value, left, right in RANDOM.exponential([0.1, 0.1, 0.1], size=(200, 3)).round(5):
        for low in (value - left, max(value - left, 0.0)):
            found = cell(column(form), result(value, low, value + right))
            if found.reach.startswith("±"):
                half = (right + value - low) / 2
                assert (value - half < 0) == (low < 0)
                assert abs(right - half) <= half / 4 + 1e-9  # off by less than a quarter
            else:
                shown = [float(each) for each in NUMBER.findall(found.reach)]
                assert np.sign(shown).tolist() == np.sign([low, value + right]).tolist()


def test_a_difference_shows_both_ends_of_its_interval() -> None:
    entry = {"one": "b", "other": "a", "steps": 4, "metric": "nmse", "reference": "teacher"}
    entry |= {"difference": 0.0123, "low": 0.000187, "high": 0.0292, "bound": None}
    entry |= {"beyond_noise": True, "better": "a"}
    ((*_, amount, means),) = verdicts(content(compared=[entry]))
    assert amount == "0.012 (0.0002 to 0.029)" and means == "beyond the noise: a is better"
    entry |= {"difference": -0.0001, "low": -0.004, "high": 0.0042, "beyond_noise": False}
    ((*_, amount, means),) = verdicts(content(compared=[entry]))
    assert amount == "-0.0001 (-0.004 to 0.004)" and means == "within the noise"


@pytest.mark.parametrize(
    ("value", "low", "high", "bound", "shown"),
    [
        (25.0, 25.0, 25.0, "at least", "at least 25"),
        (25.0, 20.3, 25.0, "at least", "at least 25 (20.3 or more)"),
        (1.0, 1.0, 1.0, "at most", "at most 1"),
        (1.0, 1.0, 1.84, "at most", "at most 1 (1.8 or less)"),
        (20.0, 14.0, 25.0, None, "20.0 (14.0 to 25.0 or more)"),
        (1.5, 1.0, 2.0, None, "1.5 (1.0 or less to 2.0)"),
        (4.0, 3.0, 5.0, None, "4.0 ± 1.0"),
    ],
)
def test_an_end_of_the_curve_reads_as_a_bound(
    value: float, low: float, high: float, bound: str | None, shown: str
) -> None:
    made = result(value, low, high, metric="teacher_steps", ends=(1, 25), bound=bound)
    (table,) = tables(content(made))
    ((_, _, (found,)),) = table.rows
    assert f"{found.value} {found.reach}".strip() == shown


def test_cost_says_of_how_many_pictures_a_call_it_is() -> None:
    for size, words in ((6, "in calls of 6 pictures"), (1, "in calls of 1 picture")):
        facts = {"metric": "peak_memory", "interval": "none", "details": {"batch_size": size}}
        made = result(10.0, 9.0, 11.0, **{**facts, "pictures": size})
        heading, *_ = plain_lines(content(made))
        assert heading == f"Cost of a picture, {words}:"
