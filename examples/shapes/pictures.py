"""Pictures a person understands at a glance: labelled rows of images."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

SCALE = 2  # 64-pixel pictures are shown at 128
LABEL_WIDTH = 190


def spread(count: int, columns: int = 10) -> range:
    """Indices of `columns` captions or pictures out of `count`; the odd stride walks through
    shapes, colours and backgrounds.
    """
    stride = (count // columns - 1) | 1
    return range(0, stride * columns, stride)


def labelled_rows(rows: Sequence[tuple[str, Sequence[Image.Image]]], gap: int = 4) -> Image.Image:
    """One row per (label, pictures), all pictures 64 x 64; "\\n" in a label starts a new line."""
    cell = rows[0][1][0].width * SCALE + gap
    canvas = Image.new(
        "RGB",
        (LABEL_WIDTH + cell * max(len(images) for _, images in rows), cell * len(rows)),
        "white",
    )
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=18)
    for y, (label, images) in enumerate(rows):
        draw.multiline_text((8, y * cell + cell // 2 - 22), label, fill="black", font=font)
        for x, image in enumerate(images):
            canvas.paste(
                image.resize((cell - gap, cell - gap), Image.Resampling.NEAREST),
                (LABEL_WIDTH + x * cell, y * cell),
            )
    return canvas
