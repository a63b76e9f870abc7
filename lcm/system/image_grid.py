"""Pictures in one labelled grid, and PNG files that are whole or absent. A grid says in its file
where its pictures are, so that they can be taken out again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from lcm.system.atomic import replacing
from lcm.system.fonts import Lettering, wrap

LARGEST_SIDE = 16384
"""What no side of a grid is longer than, in pixels, but for the labels of hundreds of rows."""

MOST_PIXELS = 2**26
"""What the pictures of a grid have together: well within what Pillow opens without a warning."""

LEAST = 128
"""Pictures whose longer side has fewer pixels are shown larger, a whole number of times."""

LAYOUT = "lcm_grid"
"""The name, in a PNG file and in `Image.info`, of what says where the pictures are."""

PAPER, INK, SOFT, RULE = "white", "#1c1e21", "#6a6f76", "#c9cdd3"
LONGEST_LABEL = 2000
"""Letters of a label that a file keeps."""


@dataclass(frozen=True)
class Layout:
    """Where the pictures of a grid are: row by row, the left upper corners of all `places` of
    `rows` x `columns`, each `size` (width, height) and `times` as large as it was drawn.
    """

    rows: list[str]
    columns: list[str]
    size: tuple[int, int]
    times: int
    places: list[tuple[int, int]]

    def keep(self, image: Image.Image) -> None:
        """Writes itself into what goes with a picture."""
        image.info[LAYOUT] = json.dumps(asdict(self))

    @classmethod
    def of(cls, image: Image.Image) -> Layout | None:
        """What a grid says of itself; None where it says nothing, or nothing that is true of it."""
        try:
            facts = json.loads(image.info[LAYOUT])
            width, height = map(whole, facts["size"])
            places = [(whole(x), whole(y)) for x, y in facts["places"]]
            rows, columns = ([str(label) for label in facts[name]] for name in ("rows", "columns"))
            made = cls(rows, columns, (width, height), whole(facts["times"]), places)
        except (KeyError, TypeError, ValueError, RecursionError):
            return None
        inside = all(x + width <= image.width and y + height <= image.height for x, y in places)
        is_whole = len(places) == len(rows) * len(columns) > 0 < width * height * made.times
        return made if inside and is_whole else None

    def pictures(self, image: Image.Image) -> list[list[Image.Image]]:
        """The pictures of a grid, by rows, in the size that they were drawn in."""
        width, height = self.size
        small = (max(1, width // self.times), max(1, height // self.times))
        cut = [image.crop((x, y, x + width, y + height)) for x, y in self.places]
        cells = [one.resize(small, Image.Resampling.NEAREST) for one in cut]
        return [cells[i : i + len(self.columns)] for i in range(0, len(cells), len(self.columns))]


def whole(value: Any) -> int:
    """A whole number that is not negative. Raises ValueError for anything else."""
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no whole number")
    return value


def save_png(
    image: Image.Image,
    path: Path,
    text: str | None = None,
    chunks: Mapping[str, str] | None = None,
) -> None:
    """Writes a PNG file, complete or not at all, with `text` as its parameters, other `chunks`
    of text, and its layout where it is a grid; makes its folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        layout = {LAYOUT: image.info[LAYOUT]} if LAYOUT in image.info else {}
        image.save(partial, format="PNG", pnginfo=png_texts(text, {**layout, **(chunks or {})}))


def png_texts(text: str | None, chunks: Mapping[str, str] | None = None) -> PngInfo:
    """What a PNG file says besides: `text` as its parameters, and other `chunks`."""
    texts = {**({} if text is None else {"parameters": text}), **(chunks or {})}
    info = PngInfo()
    for name, words in texts.items():
        info.add_text(name, words)
    return info


def enlarged(size: tuple[int, int]) -> int:
    """How many times larger a picture of this size is shown."""
    return -(-LEAST // max(size))


def fitting(size: tuple[int, int], rows: int, columns: int) -> tuple[int, int]:
    """The width and height of a picture in a grid of so many: small ones are larger, a whole number
    of times; no side of the grid is longer than LARGEST_SIDE, and all have MOST_PIXELS at most.
    """
    room = LARGEST_SIDE * 3 // 4  # the rest is for prompts and borders
    width, height = size[0] * columns, size[1] * rows
    most = min(room / width, room / height, math.sqrt(MOST_PIXELS / (width * height)))
    scale = min(enlarged(size), int(most)) if most >= 1 else most
    return max(1, int(size[0] * scale)), max(1, int(size[1] * scale))


def draw_labelled(
    images: Iterable[Image.Image],
    size: tuple[int, int],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    title: str = "",
    apart: int = 0,
) -> Image.Image:
    """Pictures made `size` (width, height), row by row, with the texts `rows` on the left,
    `columns` above, and a `title` over all. The first `apart` columns stand apart, as what the
    others are compared with. `images` may open one after the other: each is pasted as it comes.

    Raises ValueError unless there is a picture for every place.
    """
    sheet = Sheet.plan(size, rows, columns, title, apart)
    grid, times = sheet.paper(), 1
    for image, place in zip(images, sheet.places, strict=True):
        times = times_larger(image, size)
        # smoothing would draw edges that are none
        way = Image.Resampling.NEAREST if times else Image.Resampling.LANCZOS
        grid.paste(image.convert("RGB").resize(size, way), place)
    beside, above = ([label[:LONGEST_LABEL] for label in part] for part in (rows, columns))
    Layout(beside, above, size, max(1, times), sheet.places).keep(grid)
    return grid


def times_larger(image: Image.Image, size: tuple[int, int]) -> int:
    """How many times a picture goes into a size; 0 where it does not, both ways alike."""
    times = size[0] // image.width
    return times if size == (image.width * times, image.height * times) else 0


@dataclass(frozen=True)
class Sheet:
    """A grid before its pictures: the size of `letters`, where the columns and the rows begin, and
    all labels in lines. A row is `tall` pixels high, with the gap below it.
    """

    size: tuple[int, int]
    letters: int
    lefts: list[int]
    right: int
    head: int
    tall: int
    rows: list[list[Lettering]]
    columns: list[list[Lettering]]
    title: list[Lettering]
    apart: int

    @classmethod
    def plan(
        cls,
        size: tuple[int, int],
        rows: Sequence[str],
        columns: Sequence[str],
        title: str,
        apart: int,
    ) -> Sheet:
        """Labels grow with the pictures: a grid of large ones is looked at from afar."""
        width, height = size
        letters = min(48, max(14, max(size) // 16))
        line, gap = line_of(letters), letters // 2
        room = min(max(width, 11 * letters), 280 + width // 2)
        beside = [wrap(text, letters, room, max(3, height // line)) for text in rows]
        margin = max((int(one.width) + 2 * gap for lines in beside for one in lines), default=0)
        step = max(width, 4 * letters) + gap
        apart = apart if apart < len(columns) else 0
        beyond = [2 * gap if 0 < apart <= i else 0 for i in range(len(columns))]
        lefts = [gap + margin + i * step + more for i, more in enumerate(beyond)]
        above = [wrap(text, letters, step - gap, 3) for text in columns]
        right = lefts[-1] + step
        over = wrap(title, letters, right - 2 * gap, 2) if title else []
        lines = len(over) + max(map(len, above))
        head = gap + lines * line + (gap if over else 0) + gap // 2
        tall = max([height, *(line * len(lines) for lines in beside)]) + gap
        return cls(size, letters, lefts, right, head, tall, beside, above, over, apart)

    @property
    def tops(self) -> list[int]:
        """Where the rows begin."""
        return [self.head + number * self.tall for number in range(len(self.rows))]

    @property
    def places(self) -> list[tuple[int, int]]:
        """The left upper corners of the pictures, row by row."""
        return [(left, top) for top in self.tops for left in self.lefts]

    def paper(self) -> Image.Image:
        """The grid with its labels and without its pictures."""
        (width, height), letters = self.size, self.letters
        line, gap = line_of(letters), letters // 2
        grid = Image.new("RGB", (self.right, self.head + len(self.rows) * self.tall), PAPER)
        pen = ImageDraw.Draw(grid)
        write(pen, self.title, (gap, gap), letters, SOFT)
        for top, lines in zip(self.tops, self.rows, strict=True):
            middle = top + max(0, height - line * len(lines)) // 2
            write(pen, lines, (gap, middle), letters, INK)
        for left, lines in zip(self.lefts, self.columns, strict=True):
            write(pen, lines, (left, self.head - gap // 2 - line * len(lines)), letters, INK)
        if self.apart:
            x = (self.lefts[self.apart - 1] + width + self.lefts[self.apart]) // 2
            pen.line((x, self.head, x, grid.height - gap), RULE, max(1, letters // 12))
        return grid


def line_of(letters: int) -> int:
    """The distance of lines of letters of this size."""
    return letters * 13 // 10


def write(
    pen: ImageDraw.ImageDraw,
    lines: Sequence[Lettering],
    corner: tuple[int, int],
    letters: int,
    fill: str,
) -> None:
    """Lines of text from their left upper corner on."""
    left, top = corner
    for number, line in enumerate(lines):
        line.draw(pen, (left, top + number * line_of(letters) + letters), fill)
