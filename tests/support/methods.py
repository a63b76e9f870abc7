"""Every method, with flags that it has, on networks with an adapter."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from lcm.diffusion.prediction_types import PREDICTION_TYPES
from lcm.methods import METHODS

every_method = pytest.mark.parametrize("name", METHODS)
every_type = pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
FROM_TRAJECTORIES = [name for name, method in METHODS.items() if method.from_trajectories]


def asking_the_solver(own: Iterable[str]) -> dict[str, str]:
    """The choices by which a method with these flags asks the teacher's solver."""
    return {
        name: value
        for name, value in (("coupling", "solver"), ("tangent_mode", "fd"))
        if name in own
    }


TRAINS_PURE_NOISE = ("uniform", "velocity", "balanced")
"""Weights that are not 0 where alpha is."""

COMPARING = [name for name, method in METHODS.items() if method.compares != "nothing"]
"""Methods that have a loss of their own, beside which terms may stand."""
every_comparing_method = pytest.mark.parametrize("name", COMPARING)


def without_terms(name: str) -> dict[str, Any]:
    """The flags by which a method of `COMPARING` is its own loss alone."""
    return {"terms": []} if METHODS[name].settings.terms else {}
