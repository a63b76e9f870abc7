"""Looking a name up in a table, with an error that lists the choices."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


def closest(name: str, choices: Iterable[str]) -> str:
    """ " Did you mean 'x'?" for the nearest choice, or an empty string when nothing is near."""
    near = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


def lookup(table: Mapping[str, T], name: str, kind: str) -> T:
    """`table[name]`. Raises ValueError that names the choices and the closest one."""
    if name not in table:
        raise ValueError(
            f"unknown {kind} {name!r}; choose one of "
            f"{', '.join(sorted(table))}.{closest(name, table)}"
        )
    return table[name]
