"""One labelled grid of pictures, and PNG files that carry their parameters."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from lcm.inference.generate import (
    Picture,
)
from lcm.system.atomic import replacing


def save_png(image: Image.Image, path: Path, text: str | None = None) -> None:
    """Complete or not at all, with `text` as its parameters."""
    info = PngInfo()
    if text is not None:
        info.add_text("parameters", text)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        image.save(partial, format="PNG", pnginfo=info)


FONT_SIZE, LINE, BORDER = 12, 16, 4


LARGEST_SIDE = 16384


def fitting(size: tuple[int, int], rows: int, columns: int) -> tuple[int, int]:
    """The size of a picture in a grid of so many, no side of which is longer than LARGEST_SIDE."""
    room = LARGEST_SIDE * 3 // 4  # the rest is for prompts and borders
    scale = min(1.0, room / (size[0] * columns), room / (size[1] * rows))
    return max(1, int(size[0] * scale)), max(1, int(size[1] * scale))


def draw_grid(folder: Path, pictures: Sequence[Picture]) -> Image.Image:
    """Rows are prompts, columns inference steps, from the files of one seed."""
    prompts = dict(sorted({p.row: p.prompt for p in pictures}.items()))
    steps = list(dict.fromkeys(p.steps for p in pictures))
    with Image.open(folder / pictures[0].name) as first:
        width, height = fitting(first.size, len(prompts), len(steps))
    column, line = max(width, 4 * LINE) + BORDER, max(height, 3 * LINE) + BORDER
    margin = min(20 * LINE, max(10 * LINE, width))
    grid = Image.new(
        "RGB", (margin + len(steps) * column, LINE + BORDER + len(prompts) * line), "white"
    )
    pen, font = ImageDraw.Draw(grid), ImageFont.load_default(FONT_SIZE)
    tops = {row: LINE + BORDER + place * line for place, row in enumerate(prompts)}
    for row, prompt in prompts.items():
        lines = textwrap.wrap(
            prompt, margin // 7, max_lines=max(1, (line - BORDER) // LINE), placeholder=" ..."
        )
        for number, words in enumerate(lines):
            pen.text((BORDER, tops[row] + number * LINE), words, fill="black", font=font)
    lefts = {n: margin + place * column for place, n in enumerate(steps)}
    for n, left in lefts.items():
        pen.text((left, 1), f"{n} step{'s' if n > 1 else ''}", fill="black", font=font)
    for picture in pictures:
        with Image.open(folder / picture.name) as image:
            grid.paste(
                image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS),
                (lefts[picture.steps], tops[picture.row]),
            )
    return grid
