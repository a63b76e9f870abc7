"""Letters for texts of any script: fonts of this machine that have them, where there are some."""

from __future__ import annotations

import shutil
import subprocess
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import groupby
from typing import Any

from PIL import ImageDraw, ImageFont

from lcm.system.text import plain

NAMES = (
    *("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "arial.ttf"),
    *("NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf", "NotoSansSC-Regular.otf"),
    *("wqy-microhei.ttc", "wqy-zenhei.ttc", "DroidSansFallbackFull.ttf", "msyh.ttc", "simsun.ttc"),
    *("YuGothM.ttc", "malgun.ttf", "PingFang.ttc", "Hiragino Sans GB.ttc", "AppleSDGothicNeo.ttc"),
    *("NotoSansDevanagari-Regular.ttf", "NotoSansThai-Regular.ttf", "NotoNaskhArabic-Regular.ttf"),
    *("Arial Unicode.ttf", "ARIALUNI.TTF", "unifont.ttf", "unifont.otf"),
)
"""Fonts that systems bring along; Pillow looks for them in the places of each system."""

NOTHING = "\U0010ffff"
"""What no font has: it is drawn as every letter is that a font lacks."""

ASKING = 10
"""Seconds after which a machine that is asked for a font has none."""


@cache
def plain_font(size: int) -> Any:
    """The font that comes with Pillow, which is the same everywhere."""
    return ImageFont.load_default(size)


@cache
def fonts(size: int) -> tuple[Any, ...]:
    """The font that comes with Pillow, and those of this machine."""
    found = [plain_font(size)]
    for name in NAMES:
        try:
            found.append(ImageFont.truetype(name, size))
        except OSError:
            continue
    return tuple(found)


@lru_cache(maxsize=4096)
def has(font: Any, letter: str) -> bool:
    """Whether a font draws this letter, and not what it has for those that it lacks."""
    return letter.isspace() or bytes(font.getmask(letter)) != bytes(font.getmask(NOTHING))


@lru_cache(maxsize=256)
def found_for(letter: str, size: int) -> Any:
    """The font that fontconfig names for a letter that none of `fonts` has; None without it, and
    where there is no such font.
    """
    command = shutil.which("fc-match")
    if command is None:
        return None
    words = [command, "--format=%{file}", f":charset={ord(letter):x}"]
    try:
        told = subprocess.run(words, capture_output=True, text=True, timeout=ASKING, check=True)
        font = ImageFont.truetype(told.stdout.strip(), size)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return font if has(font, letter) else None


@dataclass(frozen=True)
class Lettering:
    """A text on one line as it can be drawn: a font for every letter."""

    text: str
    faces: tuple[Any, ...]

    @property
    def runs(self) -> Iterator[tuple[str, Any]]:
        """The pieces of one font each."""
        start = 0
        for font, group in groupby(self.faces):
            end = start + sum(1 for _ in group)
            yield self.text[start:end], font
            start = end

    @property
    def width(self) -> float:
        """Its length in pixels."""
        return sum(font.getlength(piece) for piece, font in self.runs)

    def part(self, start: int, end: int) -> Lettering:
        """Some of its letters, without white space around them."""
        text = self.text[start:end]
        start += len(text) - len(text.lstrip())
        end = start + len(text.strip())
        return Lettering(self.text[start:end], self.faces[start:end])

    def draw(self, pen: ImageDraw.ImageDraw, place: tuple[float, float], fill: Any) -> None:
        """Draws it from the left end of its baseline on."""
        left, base = place
        for piece, font in self.runs:
            pen.text((left, base), piece, fill=fill, font=font, anchor="ls")
            left += font.getlength(piece)


def lettering(text: object, size: int) -> Lettering:
    """A text as it can be drawn: in the font that has the most of its letters, and what that lacks
    in the next one that has it. What none has is spelled out, as `\\u8c93`.
    """
    line = plain(text)
    if line.isascii():
        return Lettering(line, (plain_font(size),) * len(line))
    letters = {letter for letter in line if not letter.isascii()}
    first = max(fonts(size), key=lambda font: sum(has(font, letter) for letter in letters))
    chosen: dict[str, Any] = {
        letter: next((font for font in (first, *fonts(size)) if has(font, letter)), None)
        or found_for(letter, size)
        for letter in sorted(letters)
    }
    shown, faces, font = "", list[Any](), first
    for letter in line:
        # what stands over or under a letter is drawn with it
        font = font if unicodedata.category(letter).startswith("M") else chosen.get(letter, first)
        spelled = letter.encode("ascii", "backslashreplace").decode() if font is None else letter
        shown += spelled
        faces += [font or first] * len(spelled)
    return Lettering(shown, tuple(faces))


def wrap(text: object, size: int, width: float, most_lines: int) -> list[Lettering]:
    """A text in lines of at most `width` pixels, broken between words where that is possible; what
    has no room in `most_lines` is left out behind dots.
    """
    # no letter that has a width is narrower than a pixel
    line = lettering(str(text)[: most_lines * max(1, int(width))].strip(), size)
    lines: list[Lettering] = []
    start = 0
    while start < len(line.text) and len(lines) < most_lines:
        count = letters_that_fit(line, start, width)
        end = start + count
        if end < len(line.text) and not line.text[end].isspace():
            space = line.text.rfind(" ", start + 1, end)
            end = space if space > 0 else end
        lines.append(line.part(start, end))
        start = end
        while start < len(line.text) and line.text[start].isspace():
            start += 1
    if start < len(line.text) and lines:
        lines[-1] = cut_off(lines[-1], size, width)
    return lines


def letters_that_fit(line: Lettering, start: int, width: float) -> int:
    """How many letters from `start` on have room; 1 at least."""
    low, high = 1, len(line.text) - start
    while low < high:
        middle = (low + high + 1) // 2
        if line.part(start, start + middle).width <= width:
            low = middle
        else:
            high = middle - 1
    return low


def cut_off(line: Lettering, size: int, width: float) -> Lettering:
    """A line with dots at its end, for what is left out."""
    dots = lettering("...", size)
    end = letters_that_fit(line, 0, width - dots.width) if line.text else 0
    kept = line.part(0, end)
    return Lettering(kept.text + dots.text, kept.faces + dots.faces)
