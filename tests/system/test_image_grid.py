"""Labelled grids: every label is on them, and every picture comes out again as it went in."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from lcm.system.fonts import lettering, wrap
from lcm.system.image_grid import (
    LARGEST_SIDE,
    LAYOUT,
    MOST_PIXELS,
    Layout,
    draw_labelled,
    fitting,
    save_png,
)

ROWS = ["a red star on a navy background", "", "кот", "W" * 500, "<b>\\n`|", "a b " * 300]
COLUMNS = ["teacher, 40 steps", "1 step", "a rather long name of an adapter, 4 steps"]


def noise(size: tuple[int, int], count: int) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))
        for _ in range(count)
    ]


@pytest.mark.parametrize("apart", [0, 1])
@pytest.mark.parametrize("size", [(16, 16), (64, 40), (128, 128), (300, 200)])
def test_pictures_come_out_of_the_file_as_they_went_in(
    size: tuple[int, int], apart: int, tmp_path: Path
) -> None:
    images = noise(size, len(ROWS) * len(COLUMNS))
    place = fitting(size, len(ROWS), len(COLUMNS))
    save_png(draw_labelled(images, place, ROWS, COLUMNS, apart=apart), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as read:
        layout = Layout.of(read)
        assert layout is not None
        rows = layout.pictures(read)
    assert (layout.rows, layout.columns) == (ROWS, COLUMNS)
    assert place == (size[0] * layout.times, size[1] * layout.times)
    assert max(place) >= 128 > max(place) - max(size)
    for picture, image in zip([one for row in rows for one in row], images, strict=True):
        assert np.array_equal(np.asarray(picture), np.asarray(image))


def ink(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("L")) < 128


@pytest.mark.parametrize("title", ["", "after 500 updates"])
def test_every_label_is_on_the_picture_beside_its_row_and_above_its_column(title: str) -> None:
    """Drawn without it, as much ink is missing there as the text has when it is drawn alone."""
    rows, columns = ["a red star", "blue"], ["1 step", "4 steps", "8 steps"]
    white = [Image.new("RGB", (128, 128), "white")] * 6
    grid = draw_labelled(white, (128, 128), rows, columns, title=title, apart=1)
    layout = Layout.of(grid)
    assert layout is not None
    lefts, tops = (sorted({place[axis] for place in layout.places}) for axis in (0, 1))
    font = ImageFont.load_default(14)

    def of(text: str) -> int:
        return int((np.frombuffer(bytes(font.getmask(text)), np.uint8) > 128).sum())

    dark = ink(grid)
    for text, top in zip(rows, tops, strict=True):
        assert dark[top : top + 128, : lefts[0]].sum() == pytest.approx(of(text), rel=0.1)
    heads = dark[tops[0] - 22 : tops[0]]
    for text, left, right in zip(columns, lefts, [*lefts[1:], grid.width], strict=True):
        assert heads[:, left:right].sum() == pytest.approx(of(text), rel=0.1)
    assert (np.asarray(grid.convert("L"))[: tops[0] - 22] < 200).any() == bool(title)


def test_no_label_runs_into_a_picture() -> None:
    white = [Image.new("RGB", (32, 32), "white")] * len(ROWS) * len(COLUMNS)
    grid = draw_labelled(white, (128, 128), ROWS, COLUMNS, title="W " * 400, apart=1)
    layout = Layout.of(grid)
    assert layout is not None
    for row in layout.pictures(grid):
        assert all(not ink(picture).any() for picture in row)


def test_grids_stay_within_bounds_and_small_pictures_are_larger() -> None:
    assert fitting((64, 64), 4, 5) == (128, 128)
    assert fitting((512, 512), 4, 5) == (512, 512)
    for rows, columns in ((70, 1), (1, 300), (200, 200), (12, 12)):
        width, height = fitting((1024, 1024), rows, columns)
        assert width * columns * height * rows <= MOST_PIXELS < (Image.MAX_IMAGE_PIXELS or 0)
        assert max(width * columns, height * rows) <= LARGEST_SIDE


def told(**changes: object) -> str:
    facts = {"rows": ["a"], "columns": ["b"], "size": [8, 8], "times": 1, "places": [[0, 0]]}
    return json.dumps({**facts, **changes})


BAD = {
    "no JSON": "{",
    "nothing": "{}",
    "a list": "[1]",
    "negative": told(places=[[-1, 0]]),
    "outside": told(places=[[3, 0]]),
    "no size": told(size=[0, 8]),
    "no times": told(times=0),
    "too few": told(rows=["a", "c"]),
    "deep": "[" * 100_000,
    "huge": told(size=[10**30] * 2),
}


@pytest.mark.parametrize("case", BAD)
def test_what_a_file_says_of_itself_is_not_believed(case: str) -> None:
    image = Image.new("RGB", (10, 10))
    image.info[LAYOUT] = BAD[case]
    assert Layout.of(image) is None


@pytest.mark.parametrize("text", ["a b c " * 50, "W" * 300, "貓" * 90, "кот и пёс " * 30, "x", ""])
@pytest.mark.parametrize("width", [40, 154])
def test_lines_have_room_and_hold_the_words_in_order(text: str, width: int) -> None:
    lines = wrap(text, 14, width, 1000)
    assert all(line.width <= width for line in lines)
    whole = lettering(text.strip(), 14).text
    assert "".join(line.text for line in lines).replace(" ", "") == whole.replace(" ", "")
    few = wrap(text, 14, width, 2)
    assert len(few) <= 2 and all(line.width <= width for line in few)
    assert (len(lines) > 2) == (bool(few) and few[-1].text.endswith("..."))
