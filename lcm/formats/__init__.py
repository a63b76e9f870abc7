"""Adapter files of every layout: one file and one line for each that can be written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lcm.formats import diffusers, kohya, peft
from lcm.formats.adapter import Adapter, BadFile, Factors
from lcm.formats.reading import find, read_adapter

LAYOUTS: dict[str, Callable[[Adapter, Path], None]] = {
    "kohya": kohya.write,
    "diffusers": diffusers.write,
    "peft": peft.write,
}
"""Layout -> what writes an adapter in it to a path, a folder for "peft". What can be read beyond them is in `keys.SPELLINGS`."""

__all__ = ["LAYOUTS", "Adapter", "BadFile", "Factors", "find", "read_adapter"]
