"""Rules for values that somebody else wrote: what each may be, in words that an error can use."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from lcm.system.text import SHOWN, plain


@dataclass(frozen=True)
class Rule:
    """What a value must be: in words that follow "not", and whether one is."""

    words: str
    holds: Callable[[Any], bool]

    def check(self, value: Any, name: str, fix: str) -> None:
        """Raises ValueError, in one line: "`name` is ..., not `words`; `fix`"."""
        if not self.holds(value):
            raise ValueError(f"{name} is {shown(value)}, not {self.words}; {fix}")


def is_whole(value: Any) -> bool:
    """Whether a value is an int; a bool is none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a value is an int or a float; a bool is none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def shown(value: Any) -> str:
    """A value of any kind and size, short and in one line."""
    if isinstance(value, str):
        return plain(repr(value[: SHOWN * 2]), SHOWN)
    if isinstance(value, dict):
        return f"an object of {len(value)} entries"
    if isinstance(value, list | tuple):
        inner = ", ".join(shown(entry) for entry in value[:4] if not isinstance(entry, list | dict))
        return (
            f"a list of {len(value)} ({plain(inner, SHOWN)})"
            if inner
            else f"a list of {len(value)}"
        )
    if is_whole(value) and abs(value) > 10**18:
        return "a number of more than 18 digits"
    return plain(repr(value), SHOWN)


def whole(least: int, most: int) -> Rule:
    """An int; a bool is none."""
    return Rule(
        f"a whole number from {least} to {most}",
        lambda value: is_whole(value) and least <= value <= most,
    )


def number(least: float, most: float = math.inf) -> Rule:
    """A finite float or int; a bool is none."""
    words = f"a number from {least:g} to {most:g}"
    return Rule(
        words if math.isfinite(most) else f"a finite number of at least {least:g}",
        lambda value: is_number(value) and least <= value <= most and abs(value) < math.inf,
    )


def text(longest: int) -> Rule:
    return Rule(
        f"a text of at most {longest} characters",
        lambda value: isinstance(value, str) and len(value) <= longest,
    )


def word(longest: int) -> Rule:
    """A str that a message can quote: some characters that can all be seen."""
    return Rule(
        f"a name of 1 to {longest} characters",
        lambda value: isinstance(value, str) and 0 < len(value) <= longest and value.isprintable(),
    )


def one_of(names: Iterable[str]) -> Rule:
    known = tuple(names)
    return Rule(
        f"one of {', '.join(known)}", lambda value: isinstance(value, str) and value in known
    )


TRUTH = Rule("true or false", lambda value: isinstance(value, bool))


def optional(rule: Rule) -> Rule:
    """None, or what the rule says."""
    return Rule(f"null or {rule.words}", lambda value: value is None or rule.holds(value))


def list_of(rule: Rule, least: int, most: int) -> Rule:
    """A list of `least` to `most` such values."""
    return Rule(
        f"a list of {least} to {most}, each {rule.words}",
        lambda value: (
            isinstance(value, list)
            and least <= len(value) <= most
            and all(rule.holds(entry) for entry in value)
        ),
    )


def object_of(entries: dict[str, Rule], most: int = 100) -> Rule:
    """A dict with text keys that has all of `entries`; others may stand beside them."""
    needed = ", ".join(f"{name}, {rule.words}" for name, rule in entries.items())
    return Rule(
        f"an object of at most {most} entries" + (f" with {needed}" if needed else ""),
        lambda value: (
            isinstance(value, dict)
            and len(value) <= most
            and all(isinstance(key, str) for key in value)
            and all(name in value and rule.holds(value[name]) for name, rule in entries.items())
        ),
    )
