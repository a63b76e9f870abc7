"""Adapters that are written in every layout."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.adapters import adapted
from tests.support.layouts import MIXED
from tests.support.worlds import build_unet


@pytest.fixture(scope="session")
def trained() -> Any:
    return adapted(build_unet())


@pytest.fixture(scope="session")
def mixed() -> Any:
    """Ranks and alphas that differ among the layers."""
    return adapted(build_unet(), 2, **MIXED)
