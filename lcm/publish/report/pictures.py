"""The pictures of a run as text inside a page, small enough to be sent around."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image

from lcm.outputs.folder import GRIDS, PICTURE_NAME

SMALL = 48 * 2**10
"""Bytes up to which a file is shown as it is."""
LARGE_WIDTH, STRIP_WIDTH, MOST_GRIDS = 1280, 320, 24


@dataclass(frozen=True)
class Picture:
    """`path` is relative to the page; `uri` holds the picture itself."""

    caption: str
    path: str
    uri: str


@lru_cache(maxsize=2 * MOST_GRIDS)
def encode(path: Path, changed: int, width: int) -> str:
    """A data URI of a PNG file. `changed` is its time of change, so that each state of it is
    encoded once, although the page is written again and again.
    """
    data, kind = path.read_bytes(), "png"
    if len(data) > SMALL:
        with Image.open(io.BytesIO(data)) as opened:
            picture = opened.convert("RGB")
        picture.thumbnail((width, 4 * width))
        buffer = io.BytesIO()
        picture.save(buffer, format="JPEG", quality=85)
        data, kind = buffer.getvalue(), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def data_uri(path: Path, width: int) -> str:
    """A data URI of a PNG file: as it is where it is small, else as JPEG of at most `width`
    pixels.
    """
    return encode(path, path.stat().st_mtime_ns, width)


def choose(count: int, most: int) -> list[int]:
    """Numbers, at most `most` of 0..count - 1, evenly spread, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]


def grids(output_dir: Path, finished: bool) -> tuple[list[Picture], int]:
    """The grids of validation/ by step, and how many were left out. When the run has `finished`,
    the last is that of the finished file.
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
    chosen = [named[i] for i in choose(len(named), MOST_GRIDS)]
    widths = [STRIP_WIDTH] * (len(chosen) - 1) + [LARGE_WIDTH]
    pictures = [
        Picture(caption, path.relative_to(output_dir).as_posix(), data_uri(path, width))
        for (caption, path), width in zip(chosen, widths, strict=False)
    ]
    return pictures, len(named) - len(chosen)
