"""Flags as the fields of frozen dataclasses, each with its limits and choices beside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any

from lcm.system.registry import lookup

YES, NO = ("yes", "true", "t", "y", "1"), ("no", "false", "f", "n", "0")
"""The words by which a switch is on or off."""


@dataclass(frozen=True)
class Flag:
    """What stands beside a field: its help text, and what its value may be.

    `names` gives the entries of a table that the flag chooses from, which may have grown since the
    import; "{names}" in the help text stands for them. `above`, `at_least`, `at_most` and `below`
    bound a number, or every number of a list. `bare` is what the flag means without a value. `read`
    turns other spellings of a value into ours. `is_free`: a resumed run may change it, since it
    does not touch the path of training. `is_place`: it names files, in which the processes of one
    run may differ. `is_optional`: it is written down only where it was given. `source`: in words,
    the data that it chooses.
    """

    help: str
    names: Callable[[], Iterable[str]] | None = None
    above: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    below: float | None = None
    unit: str = ""
    may_be_infinite: bool = False
    may_be_empty: bool = False
    choices: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    bare: Any = None
    read: Callable[[Any], Any] | None = None
    is_free: bool = False
    is_place: bool = False
    is_optional: bool = False
    source: str | None = None

    def check(self, name: str, value: object) -> None:
        """Raises ValueError, naming the flag and what it may be; None is always allowed."""
        if isinstance(value, list) and not value and not self.may_be_empty:
            raise ValueError(f"{name} must not be empty; leave it out for its default")
        if self.names is not None and value is not None:
            lookup(dict.fromkeys(self.names()), str(value), name)
        if self.choices and value is not None and value not in self.choices:
            raise ValueError(f"{name} must be one of {', '.join(self.choices)}; got {value!r}")
        for number in value if isinstance(value, list) else [value]:
            if not isinstance(number, int | float) or isinstance(number, bool):
                continue
            if not math.isfinite(number) and not self.may_be_infinite:
                raise ValueError(f"{name} must be a finite number; got {value}")
            if not self.holds(number):
                raise ValueError(f"{name} {self.limits}; got {value}")

    @property
    def help_text(self) -> str:
        """The help text with the names that there are by now."""
        return self.help.replace("{names}", ", ".join(self.names() if self.names else ()))

    def holds(self, number: float) -> bool:
        """Whether a number is within the limits."""
        return (
            (self.above is None or number > self.above)
            and (self.at_least is None or number >= self.at_least)
            and (self.at_most is None or number <= self.at_most)
            and (self.below is None or number < self.below)
        )

    @property
    def limits(self) -> str:
        """The limits in words: "must be positive", or "must lie in 0..1, 1 excluded"."""
        if self.at_most is not None:
            return f"must lie in {self.at_least:g}..{self.at_most:g}{self.unit}"
        if self.below is not None:
            return f"must lie in {self.at_least:g}..{self.below:g}, {self.below:g} excluded"
        return "must be positive" if self.above is not None else "must not be negative"


def flag(default: Any, text: str, **options: Any) -> Any:
    """A field of a section with its default, its help text, and `options` of `Flag`."""
    metadata = {"flag": Flag(text, **options)}
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def default_of(f: Field[Any]) -> Any:
    """The value of a field that is not given."""
    return f.default if f.default_factory is MISSING else f.default_factory()


@dataclass(frozen=True)
class Section:
    """A part of the configuration, for one component. Raises ValueError, naming the flag and the
    fix, for a value beyond its limits or choices.
    """

    def __post_init__(self) -> None:
        for f in fields(self):
            beside: Flag = f.metadata["flag"]
            if beside.read is not None:
                object.__setattr__(self, f.name, beside.read(getattr(self, f.name)))
            beside.check(f.name, getattr(self, f.name))
