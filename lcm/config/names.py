"""The names of flags: all spellings of each, and what is said to a name that is none."""

from __future__ import annotations

from collections.abc import Iterable

from lcm.config.other_scripts import FOREIGN_FLAGS
from lcm.config.run import FIELDS
from lcm.system.registry import closest
from lcm.system.words import quoted


def spellings() -> dict[str, str]:
    """Every accepted name, aliases included -> the flag."""
    names = {name: name for name in FIELDS}
    for name, f in FIELDS.items():
        names |= {alias.lstrip("-"): name for alias in f.metadata["flag"].aliases}
    return names


def unknown_name(name: str, what: str, besides: Iterable[str] = ()) -> ValueError:
    """The error for a name that is no flag: what to use instead, or what is spelt like it, which
    may be one of the names `besides`.
    """
    if name in FOREIGN_FLAGS:
        return ValueError(f"unknown {what} {quoted(name)}: use {FOREIGN_FLAGS[name]}")
    near = (
        closest(name, [*spellings(), *besides])
        or " --help lists all, --help WORD those with a word."
    )
    return ValueError(f"unknown {what} {quoted(name)}.{near}")
