"""The results of a card, in one file that is complete after every measurement: a run that is cut
keeps what it has, and another goes on where it stopped.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lcm.system.atomic import replacing
from lcm.system.json_input import field, read_object

FIX = "pass another --output, or delete it"
SAME = ("name", "tiny", "python", "cuda", "packages")
"""What must be the same of a machine, for its results to stand in one file."""
MOST_TRIES = 2
"""How often something is begun that never came to an end: what hangs or kills the process must not
keep the rest waiting for ever."""


@dataclass
class Record:
    """What has been measured on one machine.

    `cells` are results by name: what was measured, or an "error", and the "seconds" that it took.
    `begun` counts how often each was begun that has no result yet.
    """

    path: Path
    machine: dict[str, Any]
    cells: dict[str, dict[str, Any]]
    begun: dict[str, int]

    @classmethod
    def open(cls, path: Path, machine: dict[str, Any]) -> Record:
        """Goes on with the file where there is one. Raises ValueError for that of another machine,
        or another file.
        """
        if not path.exists():
            return cls(path, machine, {}, {})
        content = read_object(path, FIX)
        theirs, cells, begun = (
            field(content, part, dict, str(path), FIX) for part in ("machine", "cells", "begun")
        )
        for key in SAME:
            if theirs.get(key) != machine.get(key):
                raise ValueError(
                    f"{path} has results of another machine ({key}: {theirs.get(key)} -> "
                    f"{machine.get(key)}); {FIX}"
                )
        return cls(path, machine, cells, begun)

    def is_done(self, name: str) -> bool:
        """Whether there is nothing more to do about it."""
        return name in self.cells

    def forget_errors(self) -> None:
        """What failed is measured again."""
        self.cells = {name: cell for name, cell in self.cells.items() if "error" not in cell}
        self.begun = {}

    def begin(self, name: str) -> None:
        """Notes that something is measured now, in case that is the last that is heard of it."""
        self.begun[name] = self.begun.get(name, 0) + 1
        self.write()

    def put_off(self, name: str) -> None:
        """Forgets that it was begun: it was well until the time was over."""
        self.begun.pop(name, None)
        self.write()

    def finish(self, name: str, result: dict[str, Any]) -> None:
        """Keeps what came out."""
        self.begun.pop(name, None)
        self.cells[name] = finite(result)
        self.write()

    def write(self) -> None:
        """Complete or not at all."""
        content = {"machine": self.machine, "begun": self.begun, "cells": self.cells}
        with replacing(self.path) as partial:
            partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_results(path: Path) -> dict[str, Any]:
    """The content of a file of results; nothing where there is none. Raises ValueError for another
    file.
    """
    return read_object(path, FIX) if path.exists() else {}


def finite(value: Any) -> Any:
    """The same with words in the place of numbers that JSON does not know."""
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
