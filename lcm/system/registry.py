"""Tables of names, and looking a name up with an error that lists the choices."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from typing import TypeVar, cast

T = TypeVar("T")


class Table(Mapping[str, T]):
    """What there is to choose from, by name.

    Every name stands for a place, "package.module:attribute", that is imported when it is asked
    for: the names alone, as `--help` lists them, cost nothing. `add` takes entries from outside.
    """

    def __init__(self, kind: str, places: dict[str, str]) -> None:
        self.kind, self.places = kind, places
        self._known: dict[str, T] = {}

    def __getitem__(self, name: str) -> T:
        if name not in self._known:
            module, _, attribute = self.places[name].partition(":")
            self._known[name] = cast(T, getattr(import_module(module), attribute))
        return self._known[name]

    def __contains__(self, name: object) -> bool:
        return name in self.places or name in self._known  # without importing what it stands for

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*self.places, *self._known)))

    def __len__(self) -> int:
        return len({*self.places, *self._known})

    def add(self, name: str, entry: T) -> None:
        """Makes `entry` available under `name`. Raises ValueError for a name that is taken."""
        if name in self:
            raise ValueError(f"there is a {self.kind} {name!r} already; register yours as another")
        self._known[name] = entry


def closest(name: str, choices: Iterable[str]) -> str:
    """ " Did you mean 'x'?" for the nearest choice, or an empty string when nothing is near."""
    near = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


def lookup(table: Mapping[str, T], name: str, kind: str) -> T:
    """`table[name]`. Raises ValueError that names the choices and the closest one."""
    if name not in table:
        raise ValueError(
            f"unknown {kind} {name!r}; choose one of {', '.join(sorted(table))}."
            f"{closest(name, table)}"
        )
    return table[name]
