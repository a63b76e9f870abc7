"""Adapters of this toolkit, which nobody writes to."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.adapters import make_recipe, write_adapter
from tests.support.worlds import build_sd


@pytest.fixture(scope="session")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(tmp_path_factory.mktemp("ours"), build_sd, make_recipe())
