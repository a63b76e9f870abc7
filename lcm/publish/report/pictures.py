"""The pictures of a run as text inside a page, small enough to be sent around."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image

from lcm.outputs.folder import GRIDS, PICTURE_NAME
from lcm.outputs.gauges import TEACHER
from lcm.system.image_grid import LEAST, Layout

SMALL = 4 * 2**10
"""Bytes up to which a picture is kept as it is, without losses."""
LARGE, STRIP, WHOLE = 320, 128, 1280
"""Pixels of the longer side of a picture of the last grid, of one over the updates, and of a grid
that does not say where its pictures are.
"""
MOST_GRIDS, MOST_TILES, MOST_PROMPTS = 24, 800, 12
"""So many grids are on the page at most, so many of their pictures, of so many prompts."""
MANY = 60
"""From so many pictures on those of the last grid are as small as all."""


@dataclass(frozen=True)
class Tiles:
    """The pictures of a grid by rows, as data URIs, with its labels. `is_small` ones are shown
    larger than they are.
    """

    rows: Sequence[str]
    columns: Sequence[str]
    uris: Sequence[Sequence[str]]
    is_small: bool

    @property
    def students(self) -> list[int]:
        """The columns that are not the teacher's."""
        return [i for i, column in enumerate(self.columns) if not is_teacher(column)]

    def find(self, number: int, row: str, column: str) -> str | None:
        """The picture of a prompt, which is in row `number` unless the prompts have changed, in a
        column; None where there is none.
        """
        if row not in self.rows or column not in self.columns:
            return None
        is_there = list(self.rows[number : number + 1]) == [row]
        place = number if is_there else list(self.rows).index(row)
        return self.uris[place][list(self.columns).index(column)]


@dataclass(frozen=True)
class Grid:
    """`path` is relative to the page; `tiles` are its pictures, small ones, or `whole` is the grid
    itself where it does not say where they are.
    """

    caption: str
    path: str
    tiles: Tiles | None
    whole: str | None

    @classmethod
    def read(cls, output_dir: Path, caption: str, path: Path) -> Grid:
        """What is shown of a grid over the training."""
        place, read = path.relative_to(output_dir).as_posix(), read_grid(path, STRIP, MOST_PROMPTS)
        if isinstance(read, Tiles):
            return cls(caption, place, read, None)
        return cls(caption, place, None, read)


@dataclass(frozen=True)
class Progress:
    """A prompt over the updates: `steps` are the columns, and the rows, the teacher's on top, have
    a label and pictures, None where a grid lacks them.
    """

    prompt: str
    steps: Sequence[str]
    teacher: tuple[str, str] | None
    rows: Sequence[tuple[str, Sequence[str | None]]]


def is_teacher(column: str) -> bool:
    """Whether a column of a grid is the teacher's."""
    return column.startswith(TEACHER)


def uri_of(picture: Image.Image, side: int) -> str:
    """A data URI of a picture: without losses where that takes few bytes, else as JPEG; its longer
    side is `side` pixels at most.
    """
    small = picture.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    for kind, options in (("png", {}), ("jpeg", {"quality": 88, "subsampling": 0})):
        buffer = io.BytesIO()
        small.save(buffer, format=kind, **options)
        if len(buffer.getvalue()) <= SMALL:
            break
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


@lru_cache(maxsize=2 * MOST_GRIDS)
def encode(path: Path, changed: int, side: int, rows: int | None) -> Tiles | str:
    """The pictures of the first `rows` of a grid, or its own data URI. `changed` is its time of
    change, so that each state of it is encoded once, although the page is written again and again.
    """
    with Image.open(path) as opened:
        opened.load()
        layout = Layout.of(opened)
        if layout is None:
            return uri_of(opened, WHOLE)
        pictures = layout.pictures(opened)[:rows]
    uris = [[uri_of(picture, side) for picture in row] for row in pictures]
    is_small = max(layout.size) // layout.times < LEAST
    return Tiles(layout.rows[:rows], layout.columns, uris, is_small)


def read_grid(path: Path, side: int, rows: int | None = None) -> Tiles | str:
    """The pictures of the first `rows` of a grid's file, or the whole of it as a data URI."""
    return encode(path, path.stat().st_mtime_ns, side, rows)


def choose(count: int, most: int) -> list[int]:
    """Numbers, at most `most` of 0..count - 1, evenly spread, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]


def named_grids(output_dir: Path, finished: bool) -> list[tuple[str, Path]]:
    """The grids of validation/ by step, with a caption. When the run has `finished`, the last is
    that of the finished file.
    """
    found = [
        (int(m[1]), path)
        for path in output_dir.glob(f"{GRIDS}/step-*.png")
        if (m := re.fullmatch(r"step-(\d+)", path.stem))
    ]
    named = [(f"step {step}", path) for step, path in sorted(found)]
    if finished and (output_dir / PICTURE_NAME).exists():
        step, path = named.pop() if named else ("the end", output_dir / PICTURE_NAME)
        named.append((f"{step}: the finished file, reloaded", path))
    return named


def grids(output_dir: Path, finished: bool) -> tuple[list[Grid], Tiles | None, int]:
    """The grids by step, all pictures of the last in a larger size, and how many grids were left
    out.
    """
    named = named_grids(output_dir, finished)
    if not named:
        return [], None, 0
    last, most = Grid.read(output_dir, *named[-1]), MOST_GRIDS
    if last.tiles is not None:
        in_each = len(last.tiles.rows) * len(last.tiles.columns)
        most = max(4, min(MOST_GRIDS, MOST_TILES // in_each))
    kept = [Grid.read(output_dir, *named[i]) for i in choose(len(named), most)[:-1]]
    return [*kept, last], all_pictures(named[-1][1]), len(named) - len(kept) - 1


def all_pictures(path: Path) -> Tiles | None:
    """Every picture of a grid, large where they are not many; None where it does not say where they
    are.
    """
    read = read_grid(path, LARGE)
    if isinstance(read, Tiles) and len(read.rows) * len(read.columns) > MANY:
        read = read_grid(path, STRIP)
    return read if isinstance(read, Tiles) else None


def progress(shown: Sequence[Grid]) -> list[Progress]:
    """The prompts of the last grid over all grids that show them; nothing of one grid alone."""
    parts = [(grid.caption.split(":")[0], grid.tiles) for grid in shown if grid.tiles is not None]
    if len(parts) < 2 or shown[-1].tiles is None:
        return []
    last, found = shown[-1].tiles, []
    steps = [caption for caption, _ in parts]
    for number, prompt in enumerate(last.rows):
        rows = [
            (column, [tiles.find(number, prompt, column) for _, tiles in parts])
            for column in (last.columns[i] for i in last.students)
        ]
        theirs = [
            (column, last.uris[number][i])
            for i, column in enumerate(last.columns)
            if is_teacher(column)
        ]
        found.append(Progress(prompt, steps, theirs[0] if theirs else None, rows))
    return found
