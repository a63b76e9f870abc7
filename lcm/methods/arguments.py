"""Settings of a method from outside that are no flags of their own: `--method_args name=value`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from lcm.system.registry import lookup

SWITCH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def read_arguments(
    words: Sequence[str], settings: object, flags: Iterable[str], objective: str
) -> dict[str, Any]:
    """The fields of the settings that the words name, each with its value of the field's type.

    Raises ValueError for a word that is no name=value, a name twice, a name that is a flag or no
    field of the settings, and a value that does not fit.
    """
    kinds = {n: k for n, k in get_type_hints(type(settings)).items() if n not in flags}
    if words and not kinds:
        raise ValueError(
            f"method_args has no effect with objective {objective}; leave it out or choose another "
            "objective"
        )
    read: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise ValueError(f"method_args takes words like name=value; got {word!r}")
        if name in flags:
            raise ValueError(f"method_args: {name} is a flag of its own; pass --{name} {text}")
        if name in read:
            raise ValueError(f"method_args names {name} twice; leave one of them out")
        lookup(kinds, name, f"method_args of objective {objective}:")
        try:
            read[name] = value_of(kinds[name], text)
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"method_args: {name} must be {words_for(kinds[name])}; got {text!r}"
            ) from error
    return read


def write_arguments(settings: object, flags: Iterable[str]) -> list[str]:
    """The fields of the settings that are no flags, as words that `read_arguments` takes."""
    names = [name for name in get_type_hints(type(settings)) if name not in flags]
    return [f"{name}={text_of(getattr(settings, name))}" for name in names]


def value_of(kind: Any, text: str) -> Any:
    """The value of a type that a text stands for: a number, a string, a switch, or several of them
    with commas between. An empty text is None where that is allowed.

    Raises ValueError or KeyError where it does not fit.
    """
    if get_origin(kind) in (Union, UnionType):
        if not text and NoneType in get_args(kind):
            return None
        return value_of(next(k for k in get_args(kind) if k is not NoneType), text)
    if get_origin(kind) is tuple:
        return tuple(value_of(get_args(kind)[0], part) for part in text.split(",") if part)
    return SWITCH[text.lower()] if kind is bool else {int: int, float: float, str: str}[kind](text)


def text_of(value: Any) -> str:
    """A value as `value_of` reads it."""
    if isinstance(value, tuple):
        return ",".join(map(text_of, value))
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def words_for(kind: Any) -> str:
    """The type of a field as its source has it."""
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)
