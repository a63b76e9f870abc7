"""What people type as the value of a flag, in a file or on a command line: texts, numbers, paths.

What cannot be meant is a `WrongValueError`, whose words follow the name of the flag.
"""

from __future__ import annotations

import os
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from lcm.system.registry import closest
from lcm.system.text import SHOWN, is_utf8, plain

YES, NO = ("yes", "true", "t", "y", "1"), ("no", "false", "f", "n", "0")
"""The words by which a switch is on or off."""
LARGEST_SEED = 2**32 - 1
"""NumPy, which shuffles and crops, takes none above it."""
LONGEST_NAME = 255
"""Bytes of the name of a file or folder, which no usual system exceeds."""


class WrongValueError(ArgumentTypeError, ValueError):
    """What is wrong with a value; argparse, which hides the words of a ValueError, shows these."""


def quoted(value: object) -> str:
    """A value as an error shows it: on one line, and not for ever."""
    return f"'{plain(value, SHOWN)}'" if isinstance(value, str) else plain(value, SHOWN)


def fault_of_text(text: str, may_be_blank: bool = False, is_path: bool = False) -> str | None:
    """What is wrong with a text, in words that follow the name of its flag; None for nothing."""
    if not text.strip() and not may_be_blank:
        return "is empty, as an unset variable of the shell is; give it a value or leave it out"
    if "\0" in text:
        return f"has a NUL character in it, {quoted(text)}; write it without"
    if is_path:  # which may have any other
        longest = max(map(len, text.encode(errors="surrogatepass").split(b"/")))
        if longest > LONGEST_NAME:
            return f"has a name of {longest} bytes in it, more than {LONGEST_NAME}; shorten it"
        return None
    if not is_utf8(text):
        return f"is not UTF-8, {quoted(text)}; use a terminal, or a file, that is"
    return None


def text(word: str) -> str:
    """A text with something in it."""
    if fault := fault_of_text(word):
        raise WrongValueError(fault)
    return word


def prompt(word: str) -> str:
    """A text that may be empty."""
    if fault := fault_of_text(word, may_be_blank=True):
        raise WrongValueError(fault)
    return word


def place(word: str) -> str:
    """A path, or the name of something on the hub. The `~` of a home is spelled out, which a shell
    does at the beginning of a word alone.
    """
    if fault := fault_of_text(word, is_path=True):
        raise WrongValueError(fault)
    return at_home(word)


def file_path(word: str) -> Path:
    """A path of this machine."""
    return Path(place(word))


def at_home(word: str) -> str:
    """A path with `~` and `~someone` spelled out. One without such a user is an error, since a
    folder of that name is hardly ever meant.
    """
    home = os.path.expanduser(word)  # noqa: PTH111 - Path would drop a last slash and "./"
    if word.startswith("~") and home == word:
        user = word.partition("/")[0]
        raise WrongValueError(
            f"begins with {quoted(user)}, which is nobody's home; a folder of that name is "
            f"./{plain(user, SHOWN)}"
        )
    return home


def whole(word: str) -> int:
    """A whole number; 1_000 is one, 1e3 and 1.0 are none."""
    try:
        return int(word)
    except ValueError:
        raise WrongValueError(f"must be a whole number; got {quoted(word)}") from None


def number(word: str) -> float:
    """A number, nan and inf among them: whether those may be is for the limits to say."""
    try:
        return float(word)
    except ValueError:
        raise WrongValueError(f"must be a number; got {quoted(word)}") from None


def switch(word: str) -> bool:
    """What the value of a flag that is on or off means."""
    if word.lower() in YES:
        return True
    if word.lower() in NO:
        return False
    raise WrongValueError(f"must be true or false; got {quoted(word)}")


def not_among(word: str, choices: Iterable[str]) -> str:
    """What is wrong with a word that is none of these, in words that follow its flag."""
    near = closest(word, choices)
    return f"must be one of {', '.join(choices)}; got {quoted(word)}{near and '.'}{near}"


def one_of(*choices: str) -> Callable[[str], str]:
    """Reads one of a few words, and names the nearest where it is none."""

    def choice(word: str) -> str:
        if word not in choices:
            raise WrongValueError(not_among(word, choices))
        return word

    return choice


KINDS: dict[str, Callable[[str], Any]] = {
    "int": whole,
    "float": number,
    "str": str,
    "bool": switch,
}
"""How a value of a type is read."""
