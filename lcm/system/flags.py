"""Flags as the fields of frozen dataclasses, each with its limits and choices beside it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any

from lcm.system.registry import lookup
from lcm.system.values import is_number
from lcm.system.words import WrongValueError, fault_of_text, not_among, place, quoted


@dataclass(frozen=True)
class Flag:
    """What stands beside a field: its help text, and what its value may be.

    `names` gives the entries of a table that the flag chooses from, which may have grown since the
    import. `above`, `at_least`, `at_most` and `below` bound a number, or every number of a list.
    `bare` is what the flag means without a value. `read` turns other spellings of a value into
    ours. `unset` says what the flag is when it is left out, where its default does not.
    `may_be_blank`: a text of it may be empty. `is_free`: a resumed run may change it, since it does
    not touch the path of training. `is_place`: it names files or a repository, in which the
    processes of one run may differ; a `~` is spelled out. `is_optional`: it is written down only
    where it was given. `source`: in words, the data that it chooses.
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
    may_be_blank: bool = False
    choices: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    bare: Any = None
    read: Callable[[Any], Any] | None = None
    unset: str | None = None
    is_free: bool = False
    is_place: bool = False
    is_optional: bool = False
    source: str | None = None

    def checked(self, name: str, value: Any) -> Any:
        """The value as the section holds it. Raises ValueError, naming the flag and what it may be;
        None is always allowed.
        """
        try:
            if self.is_place:
                value = each(place, value)
            each(self.check_text, value)
            if self.read is not None:
                value = self.read(value)
        except WrongValueError as error:
            raise ValueError(f"{name} {error}") from error
        self.check(name, value)
        return value

    def check_text(self, text: str) -> None:
        """Raises WrongValueError for what is no text to use."""
        if fault := fault_of_text(text, self.may_be_blank, self.is_place):
            raise WrongValueError(fault)

    def check(self, name: str, value: object) -> None:
        """Raises ValueError, naming the flag, for a number beyond its limits, a word that is no
        choice and a list without anything; None is always allowed.
        """
        if isinstance(value, list) and not value and not self.may_be_empty:
            raise ValueError(f"{name} must not be empty; leave it out for its default")
        for part in value if isinstance(value, list) else [value]:
            if fault := self.fault(part):
                raise ValueError(f"{name} {fault}; got {quoted(value)}")
        if self.names is not None and value is not None:
            lookup(dict.fromkeys(self.names()), str(value), name)
        if self.choices and value is not None and value not in self.choices:
            raise ValueError(f"{name} {not_among(str(value), self.choices)}")

    def fault(self, number: Any) -> str | None:
        """What is wrong with a number, in words that follow the flag; None for nothing, and for
        what is no number.
        """
        if not is_number(number):
            return None
        if not self.may_be_infinite and not -math.inf < number < math.inf:
            return "must be a finite number"
        return None if self.holds(number) else self.limits

    @property
    def words(self) -> tuple[str, ...]:
        """The words that it may be, those that there are by now; none where any will do."""
        return self.choices or tuple(self.names() if self.names else ())

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
        if self.below is not None:
            return f"must lie in {said(self.at_least)}..{said(self.below)}, {said(self.below)} " + (
                "excluded"
            )
        if self.at_most is None:
            return "must be positive" if self.above is not None else "must not be negative"
        if self.at_least is not None:
            return f"must lie in {said(self.at_least)}..{said(self.at_most)}{self.unit}"
        most = f"at most {said(self.at_most)}{self.unit}"
        return f"must be positive and {most}" if self.above is not None else f"must be {most}"


def said(bound: float | None) -> str:
    """A bound in figures: whole numbers in full."""
    return str(bound) if isinstance(bound, int) else f"{bound:g}"


def each(function: Callable[[str], Any], value: Any) -> Any:
    """What a function makes of a text, or of each text of a list; what is none stays as it is."""
    if isinstance(value, list):
        return [each(function, part) for part in value]
    return function(value) if isinstance(value, str) else value


def flag(default: Any, text: str, **options: Any) -> Any:
    """A field of a section with its default, its help text, and `options` of `Flag`."""
    metadata = {"flag": Flag(text, **options)}
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def kind_of(f: Field[Any]) -> tuple[str, bool]:
    """The type of one value of a flag, and whether it takes several."""
    name = str(f.type).removesuffix(" | None")
    inner = name.removeprefix("list[").removesuffix("]")
    return inner, inner != name


def default_of(f: Field[Any]) -> Any:
    """The value of a field that is not given."""
    return f.default if f.default_factory is MISSING else f.default_factory()


TYPES: dict[str, tuple[Any, str]] = {
    "int": (int, "a whole number"),
    "float": (int | float, "a number"),
    "bool": (bool, "true or false"),
    "str": (str, "a text"),
}
"""What a value of a kind is in Python, and in words."""


def typed(f: Field[Any], value: Any) -> Any:
    """The value of a flag that was given from Python, a list for one that takes several, with paths
    as texts. Raises ValueError for another type; None is always allowed, and a flag with a reader
    of its own says what else is.
    """
    kind, is_list = kind_of(f)
    if value is None:
        return None
    if isinstance(value, list | tuple) is not is_list:
        what = "a list" if is_list else "one value"
        raise ValueError(f"{f.name} takes {what}; got {quoted(value)}")
    return [one(f, kind, part) for part in value] if is_list else one(f, kind, value)


def one(f: Field[Any], kind: str, value: Any) -> Any:
    """One value of a flag, of its type."""
    allowed, words = TYPES[kind]
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    is_other = not isinstance(value, allowed) or (isinstance(value, bool) and kind != "bool")
    if is_other and f.metadata["flag"].read is None:
        raise ValueError(f"{f.name} must be {words}; got {quoted(value)}")
    return value


def within(read: Callable[[str], float], **limits: Any) -> Callable[[str], float]:
    """Reads a number as `read` does, for argparse, within the `limits` that a `Flag` has."""
    beside = Flag("", **limits)

    def limited(word: str) -> float:
        value = read(word)
        if fault := beside.fault(value):
            raise WrongValueError(f"{fault}; got {quoted(value)}")
        return value

    return limited


@dataclass(frozen=True)
class Section:
    """A part of the configuration, for one component. Raises ValueError, naming the flag and the
    fix, for a value beyond its limits or choices.
    """

    def __post_init__(self) -> None:
        for f in fields(self):
            beside: Flag = f.metadata["flag"]
            value = beside.checked(f.name, typed(f, getattr(self, f.name)))
            object.__setattr__(self, f.name, value)
