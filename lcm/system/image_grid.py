"""Pictures in one grid, with labels or without, and PNG files that are whole or absent."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from lcm.system.atomic import replacing
from lcm.system.fonts import legible, letters_across

FONT_SIZE, LINE, BORDER = 12, 16, 4
"""The size of the labels' font, the distance of lines, and what stays free around; in pixels."""

LARGEST_SIDE = 16384
"""What no side of a labelled grid is longer than, in pixels."""


def save_png(
    image: Image.Image,
    path: Path,
    text: str | None = None,
    chunks: Mapping[str, str] | None = None,
) -> None:
    """Writes a PNG file, complete or not at all, with `text` as its parameters and other `chunks`
    of text; makes its folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        image.save(partial, format="PNG", pnginfo=png_texts(text, chunks))


def png_texts(text: str | None, chunks: Mapping[str, str] | None = None) -> PngInfo:
    """What a PNG file says besides: `text` as its parameters, and other `chunks`."""
    info = PngInfo()
    for name, words in {**({} if text is None else {"parameters": text}), **(chunks or {})}.items():
        info.add_text(name, words)
    return info


def fitting(size: tuple[int, int], rows: int, columns: int) -> tuple[int, int]:
    """The width and height of a picture in a grid of so many, no side of which is longer than
    LARGEST_SIDE.
    """
    room = LARGEST_SIDE * 3 // 4  # the rest is for prompts and borders
    scale = min(1.0, room / (size[0] * columns), room / (size[1] * rows))
    return max(1, int(size[0] * scale)), max(1, int(size[1] * scale))


def draw_images(images: Iterable[Image.Image], columns: int, size: tuple[int, int]) -> Image.Image:
    """Pictures of one `size` (width, height), row by row, edge to edge.

    Raises ValueError where the last row is not full.
    """
    cells = list(images)
    width, height = size
    rows, left_over = divmod(len(cells), columns)
    if left_over:
        raise ValueError(f"{len(cells)} pictures do not fill rows of {columns}")
    grid = Image.new("RGB", (columns * width, rows * height))
    for place, image in enumerate(cells):
        grid.paste(image, (place % columns * width, place // columns * height))
    return grid


def draw_labelled(
    images: Iterable[Image.Image],
    size: tuple[int, int],
    rows: Sequence[str],
    columns: Sequence[str],
) -> Image.Image:
    """Pictures made `size` (width, height), row by row, with the texts `rows` on the left and
    `columns` above. `images` may open one after the other: each is pasted as it comes.

    Raises ValueError unless there is a picture for every place.
    """
    width, height = size
    column, line = max(width, 4 * LINE) + BORDER, max(height, 3 * LINE) + BORDER
    margin, top = min(20 * LINE, max(10 * LINE, width)), LINE + BORDER
    lefts = [margin + place * column for place in range(len(columns))]
    tops = [top + place * line for place in range(len(rows))]
    grid = Image.new("RGB", (margin + len(columns) * column, top + len(rows) * line), "white")
    pen = ImageDraw.Draw(grid)
    most_lines = max(1, (line - BORDER) // LINE)
    for above, text in zip(tops, rows, strict=True):
        shown, font = legible(text, FONT_SIZE)
        length = letters_across(shown, font, margin - 2 * BORDER)
        lines = textwrap.wrap(shown, length, max_lines=most_lines, placeholder=" ...")
        for number, words in enumerate(lines):
            pen.text((BORDER, above + number * LINE), words, fill="black", font=font)
    for left, text in zip(lefts, columns, strict=True):
        shown, font = legible(text, FONT_SIZE)
        pen.text((left, 1), shown, fill="black", font=font)
    places = [(left, above) for above in tops for left in lefts]
    for image, place in zip(images, places, strict=True):
        grid.paste(image.convert("RGB").resize(size, Image.Resampling.LANCZOS), place)
    return grid
