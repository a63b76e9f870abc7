"""JSON from files that somebody else may have written, or that were cut short: what cannot be used
is one ValueError, which names the place and the fix.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

LARGEST = 1 << 28
"""Bytes of a JSON file; the largest that are meant are lists of some million rows."""


def parse_object(text: str | bytes, where: str, fix: str) -> dict[str, Any]:
    """The JSON object in `text`. Raises ValueError: "`where` is no JSON ...; `fix`"."""
    return as_object(parse(text, where, fix), where, fix)


def as_object(value: Any, where: str, fix: str) -> dict[str, Any]:
    """The value itself. Raises ValueError, as `parse_object`, for any but an object."""
    if not isinstance(value, dict):
        raise ValueError(f"{where} is no JSON object but {kind(value)}; {fix}")
    return value


def parse(text: str | bytes, where: str, fix: str, *, constants: bool = False) -> Any:
    """What `text` holds: numbers are finite, unless Python's own `constants` for others may stand
    there, and it is no deeper than Python can follow. Raises ValueError: "`where` is no JSON ...;
    `fix`".
    """
    try:
        if constants:
            return json.loads(text)
        return json.loads(text, parse_constant=refuse_constant, parse_float=finite)
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} is not UTF-8 ({error.reason}); {fix}") from error
    except RecursionError as error:
        raise ValueError(f"{where} is nested too deep to be read; {fix}") from error
    except ValueError as error:
        raise ValueError(f"{where} is no JSON ({error}); {fix}") from error


def refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits} is larger than a number can be")
    return number


def read_object(path: Path, fix: str, largest: int = LARGEST) -> dict[str, Any]:
    """The JSON object in a file. Raises ValueError, or OSError where the file cannot be read."""
    return parse_object(content(path, fix, largest), str(path), fix)


def content(path: Path, fix: str, largest: int = LARGEST) -> bytes:
    """The bytes of a regular file. A pipe or a device, which may never end, is a ValueError, and so
    is a file of more than `largest` bytes.
    """
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no file; {fix}")
    if path.stat().st_size > largest:
        raise ValueError(f"{path} has more than {largest >> 10} KiB, too much to be one; {fix}")
    return path.read_bytes()


def kind(value: Any) -> str:
    """What JSON calls a value."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    names = {dict: "an object", list: "a list", str: "a text", int: "a number", float: "a number"}
    return names.get(type(value), type(value).__name__)


def field(values: Mapping[str, Any], name: str, types: type[T], where: str, fix: str) -> T:
    """`values[name]`, of one type; an int is a float too, a bool is no number. Raises ValueError
    naming the field.
    """
    value = values.get(name)
    if types is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)  # type: ignore[return-value]
    if not isinstance(value, types) or (isinstance(value, bool) and types is not bool):
        found = kind(value) if name in values else "missing"
        raise ValueError(f"{where}: {name} is {found}, not {types.__name__}; {fix}")
    return value
