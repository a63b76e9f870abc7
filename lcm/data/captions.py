"""Captions as they were written, or an error: a text is never guessed at.

Files are UTF-8, or UTF-16 with its mark at the start. Whatever else they are in cannot be told from
their bytes, and a caption that was read wrongly would be learnt.
"""

from __future__ import annotations

import codecs
import io
from pathlib import Path
from typing import Any

from lcm.system.text import is_utf8

CAPTION_SUFFIXES = (".txt", ".caption")
"""Files of captions beside a picture, in lower case; the first that has any is taken."""

MOST_BYTES, MOST_OF_ALL = 1 << 24, 1 << 30
"""The largest file of captions, in bytes: of one picture, and of all of them."""

SEVEN_BIT = ("\x1b$", "\x1b(")
"""What turns the letters of ISO-2022 (Japanese, Korean) on and off, all in ASCII's bytes."""


class BadTextError(ValueError):
    """A text that cannot be read as it was written. Says why, and what to do about it."""


def decode(content: bytes) -> str:
    """The text of a file. Raises BadTextError where it is not UTF-8, or UTF-16 with its mark."""
    is_wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if is_wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadTextError(
            f"is not {'UTF-16, as which it begins' if is_wide else 'UTF-8'}: {error.reason} at "
            f"byte {error.start}; save it as UTF-8"
        ) from error
    check_text(text)
    return text


def check_text(text: str) -> None:
    """Raises BadTextError for a text that was read in another encoding than it was written in."""
    if "\0" in text:
        raise BadTextError(
            "is not UTF-8: it has zero bytes, as UTF-16 and UTF-32 do; save it as UTF-8"
        )
    if any(mark in text for mark in SEVEN_BIT):
        raise BadTextError("is not UTF-8: it has the shifts of ISO-2022; save it as UTF-8")
    if not is_utf8(text):  # JSON can spell half of a surrogate pair, which no tokenizer takes
        raise BadTextError("has half of a surrogate pair, which is no character; write it anew")


def as_captions(value: Any) -> tuple[str, ...]:
    """The non-empty captions in a cell that holds a string, a list of strings, or nothing.

    Raises BadTextError for one that cannot be what was written.
    """
    candidates = value if isinstance(value, list | tuple) else [value]
    captions = []
    for candidate in candidates:
        text = decode(candidate) if isinstance(candidate, bytes) else candidate
        if isinstance(text, str) and (caption := text.removeprefix("\ufeff").strip()):
            check_text(caption)
            captions.append(caption)
    return tuple(captions)


def read_text(path: Path) -> str:
    """A file of many captions. Raises ValueError that names it, or OSError, where it cannot be
    read.
    """
    if path.stat().st_size > MOST_OF_ALL:
        raise ValueError(f"{path} has more than {MOST_OF_ALL >> 20} MiB; split it")
    try:
        return decode(path.read_bytes())
    except BadTextError as error:
        raise ValueError(f"{path} {error}") from error


def lines_of(text: str) -> list[str]:
    """The lines of a text, which end at line breaks alone, unlike those of `str.splitlines`."""
    return list(io.StringIO(text, newline=None))


def read_captions(path: Path) -> tuple[str, ...]:
    """The captions in a file beside a picture. Raises BadTextError, or OSError."""
    with path.open("rb") as file:
        return caption_lines(file.read(MOST_BYTES + 1))


def caption_lines(content: bytes) -> tuple[str, ...]:
    """The captions in a file beside a picture: one on every line that is not blank.

    Raises BadTextError for what is no such file.
    """
    if len(content) > MOST_BYTES:
        raise BadTextError(
            f"has more than {MOST_BYTES >> 20} MiB, too much for a caption; shorten it"
        )
    return as_captions(lines_of(decode(content)))
