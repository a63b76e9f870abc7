"""A data set of two files, read three pictures at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.listed import pictures_of, write_tables
from tests.support.samples import Example
from tests.support.worlds import write_images


@pytest.fixture
def where(tmp_path: Path) -> Path:
    return write_tables(tmp_path / "rows", pictures_of())


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """Landscapes and portraits as parquet."""
    found = [
        write_images(tmp_path / "wide", 4, size=(24, 16)),
        write_images(tmp_path / "tall", 3, size=(17, 30)),
    ]
    paths = [path for folder in found for path in sorted(folder.glob("*.png"))]
    return write_tables(
        tmp_path / "hub",
        [Example(p.name, p.read_bytes(), (f"picture {i}",)) for i, p in enumerate(paths)],
    )


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lcm.data.stream.read.AT_ONCE", 3)
