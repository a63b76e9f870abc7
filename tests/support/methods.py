"""Every method, with flags that it has, on networks with an adapter."""

from __future__ import annotations

import pytest

from lcm.diffusion.prediction_types import PREDICTION_TYPES
from lcm.methods import METHODS

every_method = pytest.mark.parametrize("name", METHODS)
every_type = pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
FROM_TRAJECTORIES = [name for name, method in METHODS.items() if method.from_trajectories]
TRAINS_PURE_NOISE = ("uniform", "velocity")
"""Weights that are not 0 where alpha is."""
