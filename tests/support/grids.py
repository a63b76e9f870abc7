"""The pictures of a labelled grid, taken out of its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from lcm.system.image_grid import Layout


def layout_of(path: Path) -> Layout:
    """Where its pictures are."""
    with Image.open(path) as image:
        found = Layout.of(image)
    assert found is not None, path
    return found


def cells(path: Path) -> dict[tuple[int, str], np.ndarray]:
    """Every picture in the size that it was drawn in, [h, w, 3] int, by the number of its row and
    the words above its column.
    """
    layout = layout_of(path)
    with Image.open(path) as image:
        rows = layout.pictures(image.convert("RGB"))
    return {
        (number, column): np.asarray(picture).astype(int)
        for number, row in enumerate(rows)
        for column, picture in zip(layout.columns, row, strict=True)
    }
