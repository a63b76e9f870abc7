"""Texts of other people, such as captions and names in files, where a terminal or a page of
Markdown would take them for commands.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import unicodedata
from collections.abc import Sequence
from typing import Any

INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode categories that are no characters to look at: control, format (which turn the direction
of writing round), lone surrogates, and what breaks a line or a paragraph.
"""
JOINERS = "\u200c\u200d\ufe0f"
"""Format characters that writing needs: emoji and the scripts of Persia and India."""
MARKDOWN = re.compile(r"([\\`*_{}\[\]<>()#!|~&$:@]|^[-+=])")
"""Characters that Markdown, as GitHub and the hub read it, may take for markup, for an address or
for a name.
"""

SHOWN = 60
"""Characters of a value that a message quotes."""


def plain(text: object, limit: int | None = None) -> str:
    """One line for a terminal or a log: what would move its cursor, ring its bell, colour it or
    turn its writing round is shown as `\\x1b` is, and all white space as a space.

    `limit` is the length in characters above which the middle is left out.
    """
    line = str(text)
    line = (
        line
        if line.isprintable()
        else "".join(
            " " if char in "\t\n\r" else escaped(char) if is_invisible(char) else char
            for char in line
        )
    )
    if limit is not None and len(line) > limit:
        half = (limit - 3) // 2
        line = f"{line[:half]}...{line[-half:]}"
    return line


def count(number: int, noun: str) -> str:
    """A number of things, such as "1 step" and "4 steps"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def prompt_words(prompt: str) -> str:
    """A prompt as a label; one that says nothing is named as that."""
    return prompt if prompt.strip() else "(empty prompt)"


def shown_lines(text: str) -> str:
    """A text of several lines, each of them `plain`."""
    return "\n".join(map(plain, text.split("\n")))


def is_utf8(text: str) -> bool:
    """False where bytes of another encoding were read as a name, or half a surrogate pair was."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_invisible(char: str) -> bool:
    return unicodedata.category(char) in INVISIBLE and char not in JOINERS


def escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def markdown(text: object) -> str:
    """One line that Markdown shows as it is written, in a paragraph, a list or a table: no markup,
    no HTML, no link and no picture comes out of it.
    """
    line = MARKDOWN.sub(r"\\\1", plain(text).strip())
    # without a scheme, and a number that begins a list
    return re.sub(r"(?i)(\bwww|^\d+)\.", r"\1\.", line)


def code(text: object) -> str:
    """One line as Markdown's code, in a table too, whatever backticks it holds."""
    line = plain(text).replace("|", "\\|") or " "
    longest = max((len(run) for run in re.findall(r"`+", line)), default=0)
    fence = "`" * (longest + 1)
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{space}{line}{space}{fence}"


def fenced(text: str, language: str = "") -> str:
    """A block of code in Markdown that none of its lines can end."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def command_line(words: Sequence[str]) -> str:
    """A command to type, as the shell of this system reads it: that of Windows takes single quotes
    for letters.
    """
    if os.name != "nt":
        return shlex.join(words)
    return " ".join(
        word if re.fullmatch(r"[\w@+=:,./\\-]+", word) else in_double_quotes(word) for word in words
    )


def in_double_quotes(word: str) -> str:
    """A word as programs of Windows take theirs apart: of backslashes those before a quote count
    double.
    """
    inside = re.sub(r'(\\*)"', r'\1\1\\"', word)
    return '"' + re.sub(r"(\\+)$", r"\1\1", inside) + '"'


def literal(value: object) -> str:
    """A value as formatted Python code has it, on one line; characters that cannot be seen are
    spelled out.
    """
    if not isinstance(value, str):
        return repr(value)
    quoted = json.dumps(value, ensure_ascii=False)
    return "".join(escaped(char) if is_invisible(char) else char for char in quoted)


def visible(value: Any) -> Any:
    """The same value, of dictionaries and lists too, with `plain` texts in it."""
    if isinstance(value, dict):
        return {plain(name): visible(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [visible(item) for item in value]
    return plain(value) if isinstance(value, str) else value
