"""Letters for texts of any script: a font of this machine that has them, where there is one."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

from PIL import ImageFont

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


@cache
def fonts(size: int) -> tuple[Any, ...]:
    """The font that comes with Pillow, which is the same everywhere, and those of this machine."""
    found = [ImageFont.load_default(size)]
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


def legible(text: str, size: int) -> tuple[str, Any]:
    """A text on one line as it can be drawn, and the font for it: the first that has the most of
    its letters. Those that it lacks are spelled out, as `\\u8c93`.
    """
    line = plain(text)
    if line.isascii():
        return line, ImageFont.load_default(size)
    letters = {letter for letter in line if not letter.isascii()}
    font = max(fonts(size), key=lambda font: sum(has(font, letter) for letter in letters))
    shown = "".join(
        letter
        if letter not in letters or has(font, letter)
        else letter.encode("ascii", "backslashreplace").decode()
        for letter in line
    )
    return shown, font


def letters_across(text: str, font: Any, pixels: int) -> int:
    """How many letters of a text have room in a line of so many pixels, on average."""
    width = font.getlength(text[:1000])
    return max(4, int(0.95 * pixels * len(text[:1000]) / width)) if width else pixels
