"""The ranges of pyproject.toml, and the two ends of them that are tested."""

from __future__ import annotations

import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.support import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NEEDS = [Requirement(text) for text in PROJECT["dependencies"]]


def pins(name: str) -> dict[str, Version]:
    text = (ROOT / "constraints" / f"{name}.txt").read_text(encoding="utf-8")
    lines = [line.split("==") for line in text.splitlines() if not line.startswith("#")]
    return {package: Version(version) for package, version in lines}


@pytest.mark.parametrize("need", NEEDS, ids=lambda need: need.name)
def test_both_ends_are_tested_and_nothing_but_the_next_major_is_excluded(need: Requirement) -> None:
    name = need.name.replace("_", "-")
    newest, lowest = pins("newest")[name], pins("lowest")[name]
    assert newest in need.specifier and lowest in need.specifier
    bounds = {part.operator: Version(part.version) for part in need.specifier}
    floor = bounds.pop(">=")
    # torch's oldest builds for CPUs are not to be had
    assert floor < lowest if name == "torch" else floor == lowest
    cap = bounds.pop("<", None)
    assert not bounds
    if cap is not None:
        assert (cap.major, cap.release[1:]) == (max(newest.major + 1, 1), ())
