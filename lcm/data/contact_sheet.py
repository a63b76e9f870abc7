"""A picture of what a run learns from: samples over all of the data, what the first pass cuts out
of each, its captions, and what was left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from PIL import Image, ImageDraw

from lcm.data.crops import Crop, Shape
from lcm.data.records import Record
from lcm.system.fonts import Lettering, wrap
from lcm.system.image_grid import INK, PAPER, SOFT, Layout, line_of, write
from lcm.system.text import count

MOST, ACROSS = 24, 6
"""So many samples are shown, so many in a row."""
BOX, GAP = 192, 16
"""The side of what a picture is shown in, and what stays free around, in pixels."""
LETTERS, CAPTION_LINES = 13, 4
LONGEST = 300
"""Letters of a caption that are kept beside the picture."""
BACK, SHADE, FRAME = "#c3c8ce", 150, ("black", "white")
"""The colour behind pictures, how dark what is cut away becomes, and both lines of a frame."""

ABOUT_FRAMES = (
    "What is dark around a frame is cut away in the first pass; the next ones may cut elsewhere."
)

Cut = Callable[[int, Shape], Crop | None]
"""(number of the record, its (height, width)) -> what the first pass cuts out; None where nothing
is cut."""


def uncut(index: int, picture: Shape) -> None:
    """Nothing is known of what is cut out."""


def chosen(total: int) -> list[int]:
    """The first, the last, and others evenly between them."""
    if total <= MOST:
        return list(range(total))
    return [number * (total - 1) // (MOST - 1) for number in range(MOST)]


def draw_sheet(
    records: Sequence[Record], title: str, left_out: Sequence[str] = (), cut: Cut = uncut
) -> Image.Image:
    """The samples in rows under a title, and lines on what was `left_out` below."""
    numbers = chosen(len(records))
    with ThreadPoolExecutor(max_workers=4) as pool:
        tiles = list(pool.map(lambda number: draw_tile(records[number], number, cut), numbers))
    across = min(ACROSS, len(tiles))
    wide, line = across * (BOX + GAP) + GAP, line_of(LETTERS)
    wide = max(wide, 3 * (BOX + GAP) + GAP)
    lines = max(len(tile.caption) + len(tile.facts) for tile in tiles)
    said = f"{title} {ABOUT_FRAMES}" if any(tile.is_cut for tile in tiles) else title
    above = wrap(said, LETTERS, wide - 2 * GAP, 3)
    below = [part for text in left_out for part in wrap(text, LETTERS, wide - 2 * GAP, 2)]
    tall = BOX + lines * line + GAP
    top = GAP + len(above) * line + GAP
    rows = -(-len(tiles) // across)
    end = top + rows * tall
    sheet = Image.new("RGB", (wide, end + len(below) * line + (GAP if below else 0)), PAPER)
    pen = ImageDraw.Draw(sheet)
    write(pen, above, (GAP, GAP), LETTERS, INK)
    write(pen, below, (GAP, end), LETTERS, INK)
    places = []
    for number, tile in enumerate(tiles):
        left, y = GAP + number % across * (BOX + GAP), top + number // across * tall
        places.append((left, y))
        sheet.paste(tile.image, (left, y))
        write(pen, tile.caption, (left, y + BOX + 2), LETTERS, INK)
        facts = (left, y + BOX + 2 + len(tile.caption) * line)
        write(pen, tile.facts, facts, LETTERS, SOFT)
    Layout([tile.words for tile in tiles], [""], (BOX, BOX), 1, places).keep(sheet)
    return sheet


class Tile:
    """A sample as it is shown: its picture in a box, its captions and its sizes in lines, and both
    in `words`; `is_cut` is whether its picture is larger than what is seen of it.
    """

    def __init__(self, image: Image.Image, captions: str, facts: str, is_cut: bool) -> None:
        self.image, self.is_cut = image, is_cut
        self.words = f"{captions[:LONGEST]} ({facts})"
        self.caption: list[Lettering] = wrap(captions, LETTERS, BOX, CAPTION_LINES)
        self.facts: list[Lettering] = wrap(facts, LETTERS, BOX, 2)


def draw_tile(record: Record, number: int, cut: Cut) -> Tile:
    """A sample with the frame of what is cut out of it."""
    picture = record.image()
    width, height = picture.size
    crop = cut(number, (height, width))
    facts, is_cut = f"{width} x {height}", False
    if crop is not None:
        is_cut = crop.resized != (crop.size.width, crop.size.height)
        seen = f"{crop.size.width} x {crop.size.height}"
        facts += f", cut to {seen}" if seen != facts else ""
        facts += ", mirrored" if crop.mirrored else ""
    return Tile(in_box(picture, crop), " | ".join(record.captions), facts, is_cut)


def in_box(picture: Image.Image, crop: Crop | None) -> Image.Image:
    """A picture in the middle of its box: made smaller where it is large, and a whole number of
    times larger where it is small; what is cut away is dark, with a frame around the rest.
    """
    small = picture.copy()
    small.thumbnail((BOX, BOX))
    times = BOX // max(small.size)
    if times > 1:
        size = (small.width * times, small.height * times)
        small = small.resize(size, Image.Resampling.NEAREST)
    if crop is not None:
        small = framed(small, part_of(crop))
    box = Image.new("RGB", (BOX, BOX), BACK)
    box.paste(small, ((BOX - small.width) // 2, (BOX - small.height) // 2))
    return box


def part_of(crop: Crop) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of what is cut out, as parts of the picture as it was read."""
    (width, height), size = crop.resized, crop.size
    left = width - size.crop_left - size.width if crop.mirrored else size.crop_left
    right, bottom = left + size.width, size.crop_top + size.height
    return left / width, size.crop_top / height, right / width, bottom / height


def framed(picture: Image.Image, part: tuple[float, float, float, float]) -> Image.Image:
    """The picture, dark outside of a part of it; untouched where the part is all."""
    left, top, right, bottom = part
    box = (
        *(round(left * picture.width), round(top * picture.height)),
        *(round(right * picture.width), round(bottom * picture.height)),
    )
    if box == (0, 0, *picture.size):
        return picture
    dark = Image.new("RGB", picture.size, "black")
    mask = Image.new("L", picture.size, SHADE)
    mask.paste(0, box)
    shown = Image.composite(dark, picture, mask)
    pen = ImageDraw.Draw(shown)
    for inset, colour in enumerate(FRAME):
        corners = (box[0] + inset, box[1] + inset, box[2] - 1 - inset, box[3] - 1 - inset)
        if corners[0] <= corners[2] and corners[1] <= corners[3]:
            pen.rectangle(corners, outline=colour)
    return shown


def title_of(source: str, kept: int) -> str:
    """What a sheet shows, in a sentence."""
    shown = len(chosen(kept))
    some = "all of them" if shown == kept else f"{shown} of them, evenly spread"
    return f"{count(kept, 'sample')} of {source}; here are {some}."
