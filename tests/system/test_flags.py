"""What stands beside the field of a section: limits, choices, other spellings."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest

from lcm.system.flags import Flag, Section, default_of, flag

GROWING = ["lcm", "cd"]


@dataclass(frozen=True)
class Sample(Section):
    """A section with a field of every kind."""

    positive: float = flag(1.0, "above a bound", above=0)
    counted: int = flag(0, "from a bound on", at_least=0)
    share: float = flag(0.5, "both bounds are allowed", at_least=0, at_most=1, unit=" of all")
    decay: float = flag(0.5, "the upper bound is not", at_least=0, below=1)
    endless: float = flag(1.0, "may be infinite", above=0, may_be_infinite=True)
    sizes: list[int] = flag([4], "numbers", at_least=1, at_most=9)
    words: list[str] = flag([], "words", may_be_empty=True)
    mode: str = flag("no", "one of a few", choices=("no", "full"), read=str.lower)
    method: str = flag("lcm", "one of them", names=lambda: GROWING)
    nothing: int | None = flag(None, "may be left out", above=0)
    switch: bool = flag(False, "on or off")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("positive", 0.0, "positive must be positive; got 0.0"),
        ("positive", math.inf, "positive must be a finite number; got inf"),
        ("positive", math.nan, "positive must be a finite number; got nan"),
        ("counted", -1, "counted must not be negative; got -1"),
        ("share", 1.1, "share must lie in 0..1 of all; got 1.1"),
        ("share", -0.1, "share must lie in 0..1 of all; got -0.1"),
        ("decay", 1.0, "decay must lie in 0..1, 1 excluded; got 1.0"),
        ("endless", 0.0, "endless must be positive; got 0.0"),
        ("endless", math.nan, "endless must be positive; got nan"),
        ("sizes", [3, 0], "sizes must lie in 1..9; got [3, 0]"),
        ("sizes", [], "sizes must not be empty; leave it out for its default"),
        ("mode", "half", "mode must be one of no, full; got 'half'"),
        ("method", "lmc", "unknown method 'lmc'; choose one of cd, lcm. Did you mean 'lcm'?"),
        ("nothing", 0, "nothing must be positive; got 0"),
    ],
)
def test_a_value_beyond_its_limits_is_refused_by_name(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError) as error:
        Sample(**{name: value})
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("counted", 0),
        ("share", 0.0),
        ("share", 1),
        ("decay", 0.0),
        ("endless", math.inf),
        ("sizes", [1, 9]),
        ("words", []),
        ("nothing", None),
    ],
)
def test_the_ends_of_the_limits_are_allowed(name: str, value: Any) -> None:
    assert getattr(Sample(**{name: value}), name) == value


def test_other_spellings_are_read_before_they_are_checked() -> None:
    assert Sample(mode="FULL").mode == "full"


def test_choices_are_those_of_the_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table may have grown since the section was defined."""
    beside: Flag = next(f for f in fields(Sample) if f.name == "method").metadata["flag"]
    assert beside.words == ("lcm", "cd")
    monkeypatch.setattr(f"{__name__}.GROWING", [*GROWING, "mine"])
    assert Sample(method="mine").method == "mine"
    assert beside.words == ("lcm", "cd", "mine")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("positive", "1.0", "positive must be a number; got '1.0'"),
        ("counted", 1.0, "counted must be a whole number; got 1.0"),
        ("counted", True, "counted must be a whole number; got True"),
        ("counted", [1], r"counted takes one value; got \[1\]"),
        ("sizes", 4, "sizes takes a list; got 4"),
        ("sizes", [4, "5"], "sizes must be a whole number; got '5'"),
        ("words", ["a", 1], "words must be a text; got 1"),
        ("words", "a", "words takes a list; got 'a'"),
        ("method", b"lcm", "method must be a text"),
        ("switch", 1, "switch must be true or false; got 1"),
    ],
)
def test_a_value_of_another_type_is_refused(name: str, value: Any, message: str) -> None:
    """From Python, or from what a file of JSON has kept."""
    with pytest.raises(ValueError, match=message):
        Sample(**{name: value})


def test_paths_are_texts_and_tuples_are_lists() -> None:
    sample = Sample(words=(Path("a"), "b"), positive=2)  # type: ignore[arg-type]
    assert (sample.words, sample.positive) == (["a", "b"], 2)


def test_lists_are_not_shared_by_default() -> None:
    sizes = next(f for f in fields(Sample) if f.name == "sizes")
    first, second = Sample(), Sample()
    first.sizes.append(9)
    assert second.sizes == default_of(sizes) == [4]


def test_a_section_is_not_revised() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Sample().counted = 3  # type: ignore[misc]
    with pytest.raises(ValueError, match="counted must not be negative"):
        dataclasses.replace(Sample(), counted=-1)
