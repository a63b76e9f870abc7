"""Adapter files of every layout: read, judged, written again."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lcm.formats.apply import add_deltas, verify
    from lcm.formats.factors import Adapter, Factors
    from lcm.formats.programs import what_takes
    from lcm.formats.read import read_adapter
    from lcm.formats.write import save

__all__ = ["Adapter", "Factors", "add_deltas", "read_adapter", "save", "verify", "what_takes"]

HOMES = {
    **dict.fromkeys(("add_deltas", "verify"), "apply"),
    **dict.fromkeys(("Adapter", "Factors"), "factors"),
    "what_takes": "programs",
    "read_adapter": "read",
    "save": "write",
}
"""Name -> the module that it comes from, loaded when it is asked for."""


def __getattr__(name: str) -> Any:
    if name in HOMES:
        return getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
