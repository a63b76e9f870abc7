"""The teacher and the folder of trajectories."""

from __future__ import annotations

from pathlib import Path

import pytest

from lcm.models.families import Family, load_family


@pytest.fixture
def family(sd_folder: Path) -> Family:
    return load_family(str(sd_folder))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "trajectories"
